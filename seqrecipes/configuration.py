"""gin files, flags and macros, as T5X users expect them, with errors that say what to do.

`--gin_file` repeats and later files win; `--gin.NAME=value` replaces a macro or a binding after the
files; `--gin_search_paths` lists folders in which files are looked up. A name that nothing reads is
an error: a typo must not train for weeks.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence

import gin

from seqrecipes.config import finetuning, recipe, vocabulary  # noqa: F401 -- gin
from seqrecipes.data.corpora import parallel_files, text_files, tfds_text  # noqa: F401 -- gin
from seqrecipes.data.labelled import local_files, tfds_sets  # noqa: F401 -- gin
from seqrecipes.downstream import protocol  # noqa: F401 -- gin
from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE

log = logging.getLogger(__name__)

_BINDING = re.compile(r"^--gin\.([^=]+)=(.*)$", re.DOTALL)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The gin flags, on a command's parser."""
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="repeats; later files win"
    )
    parser.add_argument(
        "--gin_search_paths", default=".", metavar="DIR,DIR", help="where gin files are looked up"
    )
    parser.epilog = (
        parser.epilog or "--gin.NAME=value replaces a macro or binding, e.g. --gin.SIZE=\"'mini'\""
    )


def add_tasks_flag(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The flag that names the task module, the same for all commands.

    Args:
      parser: of the command.
      default: the module; None is what the gin files say.
    """
    shown = default or "that of the gin files"
    parser.add_argument(
        "--tasks",
        metavar="MODULE",
        default=default,
        help=f"registers what there is to read (default: {shown})",
    )


def with_tasks(bindings: Sequence[str], module: str | None, field: str) -> list[str]:
    """The bindings of a command, with one for the flag --tasks where it is given.

    Raises:
      UserError: there is one already.
    """
    if module is None:
        return list(bindings)
    if any(binding.startswith(f"{field} = ") for binding in bindings):
        raise UserError("--tasks", module, f"--gin.{field} is given too; give one of them")
    return [*bindings, f"{field} = {module!r}"]


def parse_flags(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the `--gin.NAME=value` bindings among them as `NAME = value`."""
    rest, bindings = [], []
    # Before argparse, which takes what has a space in it for a positional argument.
    for argument in sys.argv[1:] if argv is None else argv:
        if match := _BINDING.match(argument):
            bindings.append(f"{match[1]} = {match[2]}")
        else:
            rest.append(argument)
    return parser.parse_args(rest), bindings


def load(files: Sequence[str], bindings: Sequence[str], search_paths: str = ".") -> None:
    """Reads files and bindings into gin's configuration.

    Raises:
      UserError: a missing file, a syntax error, an unknown name, or one that nothing reads.
    """
    # Files of the clone include each other by their names in it, wherever a command is given.
    for path in [*search_paths.split(","), str(CLONE)]:
        gin.add_config_file_search_path(path)
    for file in files:
        try:
            with _quiet_search():
                gin.parse_config_file(file)
        except OSError as error:
            raise UserError("--gin_file", file, f"cannot be read: {_first(error)}") from error
        except (ValueError, SyntaxError, TypeError, ImportError) as error:
            raise UserError("--gin_file", file, _first(error)) from error
    for binding in bindings:
        name, value = binding.split(" = ", 1)
        try:
            gin.parse_config(binding)
        except (ValueError, SyntaxError, TypeError) as error:
            hint = f"{_first(error)} (strings need quotes: --gin.{name}=\"'{value}'\")"
            raise UserError(f"--gin.{name}", value, hint) from error
    _check_all_read(gin.config_str(max_line_length=10_000), bindings)


def quiet_tensorflow() -> None:
    """From now on the first import of TensorFlow is quiet, see `seqrecipes.data.tensorflow_start`.

    Commands call this before they import what reads text.
    """
    from seqrecipes.data import tensorflow_start

    tensorflow_start.prepare()


@contextlib.contextmanager
def _quiet_search() -> Iterator[None]:
    """Within it gin logs no error for every folder without a file; where none has it, it raises."""

    def elsewhere(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Path not found: ")

    logging.getLogger().addFilter(elsewhere)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(elsewhere)


@contextlib.contextmanager
def required_values() -> Iterator[None]:
    """Where configurables are called: tells which value no file and no flag gives.

    Raises:
      UserError: in place of gin's own errors.
    """
    try:
        yield
    except (TypeError, RuntimeError) as error:
        text = str(error)
        arguments = re.search(r"for arguments: \['(\w+)'.*configurable '(\w+)'", text, re.DOTALL)
        bindings = re.search(r"bindings for `(\w+)` not provided in config: \['(\w+)'", text)
        if arguments:
            name = f"{arguments[2]}.{arguments[1]}"
        elif bindings:
            name = f"{bindings[1]}.{bindings[2]}"
        else:
            raise
        raise UserError(name, None, "no gin file sets it; is it a recipe's?") from error


def _check_all_read(text: str, bindings: Sequence[str]) -> None:
    """Refuses flags for macros that no `%NAME` reads, or in scopes that no `@scope/...` opens.

    What a file sets and nothing reads is only said: one file may serve several recipes.
    """
    read = set(re.findall(r"%([A-Za-z_]\w*)", text))
    opened = set(re.findall(r"@([\w/]+)/\w+", text))
    unread = {
        *(set(re.findall(r"^([A-Za-z_]\w*) = ", text, re.MULTILINE)) - read),
        *(
            f"{scope}/{name}"
            for scope, name in re.findall(r"^([\w/]+)/(\w+\.\w+) =", text, re.MULTILINE)
            if scope not in opened
        ),
    }
    for binding in bindings:
        if (name := binding.split(" = ")[0]) in unread:
            raise UserError(
                f"--gin.{name}",
                name,
                f"nothing reads it; macros are {sorted(read)}, scopes are {sorted(opened)}",
            )
    if unread:
        log.info("set, but not read by this recipe: %s", ", ".join(sorted(unread)))


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
