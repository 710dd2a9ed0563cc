"""Flags of commands: declared as the fields of a recipe are, and answered in one line."""

from __future__ import annotations

import argparse
import pathlib
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

from seqrecipes.config.check import Range, check, choose, did_you_mean
from seqrecipes.errors import UserError

Positive = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, below=2**32)]
Length = Annotated[int, Range(8, below=2**31)]
Share = Annotated[float, Range(0, 1)]


class Parser(argparse.ArgumentParser):
    """A command's flags. A mistake is one line and status 2; nothing is abbreviated.

    Args:
      command: name of the module below `seqrecipes`.
      settings: of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **settings: Any):
        super().__init__(prog=f"python -m seqrecipes.{command}", allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Ends the command; argparse's own message, put as ours are."""
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
            first = unknown[1].split()[0] if unknown[1].split() else unknown[1]
            known = [flag for action in self._actions for flag in action.option_strings]
            close = did_you_mean(first.partition("=")[0], known) or "; --help lists them"
            message = f"{unknown[1]}: there is no such argument{close}"
        elif choice := re.fullmatch(
            r"argument (\S+): invalid choice: (.+) \(choose from (.*)\)", message
        ):
            choices = [each.strip("'") for each in choice[3].split(", ")]
            message = f"{choice[1]} = {choice[2]}: {choose(choice[2].strip(chr(39)), choices)}"
        elif needed := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = f"{needed[1]}: missing; --help says what they are"
        elif needed := re.fullmatch(r"one of the arguments (.*) is required", message):
            message = f"{' or '.join(needed[1].split())}: one of them is needed"
        elif value := re.fullmatch(r"argument (\S+): (['\"].*?['\"]: .*)", message, re.DOTALL):
            message = f"{value[1]} = {value[2]}"
        self.exit(2, f"error: {message}\n")


def value(declared: Any) -> Callable[[str], Any]:
    """For `type=` of a flag: reads a number and checks it against its declaration."""
    kind = typing.get_args(declared)[0] if typing.get_origin(declared) is Annotated else declared

    def read(text: str) -> Any:
        number: Any = None
        for reader in (kind, float):
            try:
                number = reader(text)
                break
            except ValueError:
                continue
        try:
            if number is None:
                raise UserError("", text, f"must be a {'whole ' if kind is int else ''}number")
            check(number, declared, "")
        except UserError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error.remedy}") from error
        return number

    return read


def path(text: str) -> pathlib.Path:
    """For `type=` of a flag that names a file or a folder."""
    return pathlib.Path(name(text))


def name(text: str) -> str:
    """For `type=` of a flag that may not be empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: write a name")
    return text
