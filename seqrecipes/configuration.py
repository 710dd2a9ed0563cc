"""gin files, flags and macros, as T5X users expect them, with errors that say what to do.

`--gin_file` repeats and later files win; `--gin.NAME=value` replaces a macro or a binding after the
files; `--gin_search_paths` lists folders in which files are looked up. A name that nothing reads is
an error: a typo must not train for weeks.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import pathlib
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
from gin import config_parser

from seqrecipes.config import finetuning, recipe, training, vocabulary
from seqrecipes.config import flags as flags_of
from seqrecipes.config.bindings import Bindings, Key
from seqrecipes.config.check import did_you_mean
from seqrecipes.config.optimizers import OPTIMIZERS
from seqrecipes.data import task_modules
from seqrecipes.data.corpora import parallel_files, text_files
from seqrecipes.data.labelled import local_files
from seqrecipes.data.seqio import tfds_sets, tfds_text
from seqrecipes.downstream import protocol
from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE

ROOTS: dict[str, Callable[..., Any]] = {
    "train": recipe.Pretraining,
    "finetune": finetuning.FinetuningRun,
    "protocol": protocol.Protocol,
}
# Called by task modules, or where text is read: in no scope, and if at all.
LAZY: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        vocabulary.pretraining_vocabulary,
        text_files.TextFiles,
        parallel_files.ParallelFiles,
        tfds_text.TfdsText,
        tfds_text.wiki,
        tfds_text.mc4,
        local_files.LabelledFiles,
        tfds_sets.LabelledTfds,
    )
}
_PARTS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        *(recipe.Recipe, recipe.Stage, recipe.Phase, recipe.WarmStart),
        *(training.Loss, training.Partitioning, training.Checkpointing),
        *OPTIMIZERS.values(),
        *(finetuning.Finetuning, finetuning.Search),
    )
}
CONFIGURABLES = {**ROOTS, **LAZY, **_PARTS}
# What makes one of them, where recipes need not.
_HOMES = {
    "WarmStart": "Stage.warm_start",
    "Loss": "Stage.loss",
    **dict.fromkeys(OPTIMIZERS, "Stage.optimizer"),
    "Partitioning": "Recipe.partitioning",
    "Checkpointing": "Recipe.checkpointing",
    "Search": "Finetuning.search",
    "Finetuning": "Recipe.probes",
}

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
        type=flags_of.name,
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


def load(
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: str = ".",
    root: str | None = None,
) -> None:
    """Reads files and bindings into gin's configuration.

    A macro of a file may serve other recipes. What else a file sets must change something when it
    is read, and what a flag sets must change something in the end.

    Args:
      files: gin files; later ones win.
      bindings: `NAME = value`, after the files.
      search_paths: folders in which files are looked up, separated by commas.
      root: the configurable that the command calls, `train`, `finetune` or `protocol`.

    Raises:
      UserError: a missing file, a syntax error, an unknown name, or one that changes nothing.
    """
    # Files of the clone include each other by their names in it, wherever a command is given.
    folders = ["", *search_paths.split(","), str(CLONE)]
    for path in folders[1:]:
        gin.add_config_file_search_path(path)
    changed: list[dict[Key, str]] = []
    for file in files:
        before = _read(root).values
        _parse_file(file, bindings, folders)
        now = _read(root)
        changed.append({k: v for k, v in now.values.items() if before.get(k) != v})
        # Before a recipe is whole it cannot be told what its bindings are for.
        if any(key.name == root for key in now.values) and not now.missing:
            for key in _own(file, folders):
                if key.argument and (problem := now.problem(key, _HOMES)):
                    raise UserError(file, str(key), problem)
    _check_order(files, changed, _read(root))
    _check_root(files, root)
    for binding in bindings:
        name, value = binding.split(" = ", 1)
        _parse_flag(name, value)
    final = _read(root)
    for binding in bindings:
        name, value = binding.split(" = ", 1)
        if problem := final.problem(Key.of(name), _HOMES):
            raise UserError(f"--gin.{name}", value, problem)
    given = {binding.split(" = ", 1)[0] for binding in bindings}
    for macro, reader in final.missing.items() if root else ():
        if macro not in given:  # infinite, which gin does not print
            close = did_you_mean(macro, [key.name for key in final.values if not key.argument])
            remedy = f"{reader} reads it and nothing sets it{close}"
            raise UserError(f"%{macro}", None, remedy)


def check_called(bindings: Sequence[str], root: str) -> None:
    """Refuses flags that are for a corpus, or a set, which the run has not opened.

    Call it when the text was looked at: only then it is known what a task module calls.

    Raises:
      UserError: names the flag, and what it is for.
    """
    called = set(re.findall(r"^# Parameters for (?:[\w/]+/)?([\w.]+):", _operative(), re.MULTILINE))
    called = {name.rpartition(".")[2] for name in called}
    text = _text()
    read = Bindings(text, [root, *called, *_of_users()]).read
    for binding in bindings:
        name, value = binding.split(" = ", 1)
        if (key := Key.of(name)) not in read:
            users = [each for each in LAZY if key in Bindings(text, [each]).read]
            corpora = {"TextFiles": "'text'", "ParallelFiles": "'parallel'"}
            hint = "".join(
                f': --gin.CORPUS="{corpora[each]}" would' for each in users if each in corpora
            )
            remedy = f"this run opens no {' or '.join(users)}{hint}"
            raise UserError(f"--gin.{name}", value, remedy)


def _check_root(files: Sequence[str], root: str | None) -> None:
    """Refuses files that are for another command."""
    bound = {key.name for key in Bindings(_text(), []).values}
    if root and root not in bound and (others := sorted(bound & ROOTS.keys())):
        remedy = f"is for python -m seqrecipes.{others[0]}"
        raise UserError("--gin_file", files[-1] if files else None, remedy)


def _parse_file(file: str, bindings: Sequence[str], folders: Sequence[str]) -> None:
    if not any(pathlib.Path(each, file).is_file() for each in folders):
        shipped = [f"gin/{path.relative_to(CLONE / 'gin')}" for path in CLONE.glob("gin/**/*.gin")]
        said = "is a folder" if pathlib.Path(file).is_dir() else "no such file"
        raise UserError("--gin_file", file, said + did_you_mean(file, shipped))
    try:
        with _quiet_search():
            gin.parse_config_file(file)
    except OSError as error:
        raise UserError("--gin_file", file, f"cannot be read: {_first(error)}") from error
    except RecursionError as error:
        raise UserError("--gin_file", file, "includes itself") from error
    except (ValueError, SyntaxError, TypeError, ImportError, tokenize.TokenError) as error:
        name = re.match(r"No configurable matching '(?:\w+/)*([\w.]+)'", _first(error))
        text = "\n".join([*bindings, _text_of(file)])
        if name and task_modules.import_one_with(name[1], text):
            return _parse_file(file, bindings, folders)
        raise UserError("--gin_file", file, _named(error)) from error


def _parse_flag(name: str, value: str) -> None:
    field = f"--gin.{name}"
    if not re.fullmatch(r"(?:\w+/)*[A-Za-z_][\w.]*", name):
        raise UserError(field, value, "write --gin.NAME=value, --gin.CONFIGURABLE.ARGUMENT=value")
    try:
        gin.parse_config(f"{name} = {value}")
    except (ValueError, SyntaxError, TypeError, tokenize.TokenError) as error:
        unknown = re.match(r"No configurable matching '(?:\w+/)*([\w.]+)'", _first(error))
        if unknown and task_modules.import_one_with(unknown[1], _text()):
            return _parse_flag(name, value)
        raise UserError(field, value, _named(error, name, value)) from error


def _named(error: BaseException, name: str = "", value: str = "") -> str:
    """The fault of a binding, with the values that would be accepted."""
    text = _first(error)
    if unknown := re.match(r"No configurable matching '(?:\w+/)*([\w.]+)'", text):
        return f"there is no {unknown[1]}{did_you_mean(unknown[1], CONFIGURABLES)}"
    if unknown := re.match(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", text):
        owner = unknown[1].rpartition(".")[2]
        ours = CONFIGURABLES.get(owner)
        known = list(inspect.signature(ours).parameters) if ours else []
        close = did_you_mean(unknown[2], known) or (f"; it has {', '.join(known)}" if known else "")
        return f"{owner} has no {unknown[2]}{close}"
    if not name:
        return text
    if not value.strip():
        return f"write a value: --gin.{name}=\"'text'\", --gin.{name}=3"
    if value.count("'") % 2 or value.count('"') % 2:
        return f"a quote is not closed; write --gin.{name}=\"'text'\""
    if any(value.count(left) != value.count(right) for left, right in ("[]", "()", "{}")):
        return "a bracket is not closed"
    if value.lower() in ("true", "false", "none"):
        return f"write {value.capitalize()}"
    if re.fullmatch(r"[\w./~:-]*[A-Za-z][\w ./~:,-]*", value):
        return f"strings need quotes: --gin.{name}=\"'{value}'\""
    return text


def _check_order(files: Sequence[str], changed: Sequence[dict[Key, str]], final: Bindings) -> None:
    """Refuses a file of which the ones after it leave nothing."""
    for number, (file, ours) in enumerate(zip(files, changed, strict=True)):
        later = {key for each in changed[number + 1 :] for key in each}
        wanted = [key for key in ours if key in final.read]
        if wanted and later.issuperset(wanted):
            raise UserError(
                "--gin_file", file, f"{files[-1]} replaces all that it sets; name it after that one"
            )


def _own(file: str, folders: Sequence[str]) -> list[Key]:
    """The bindings of a file itself, without those of files that it includes."""
    path = next((p for each in folders if (p := pathlib.Path(each, file)).is_file()), None)
    if path is None:
        return []
    with path.open(encoding="utf-8") as lines:
        return [
            Key.of(f"{each.scope}/{each.selector}.{each.arg_name}".removeprefix("/"))
            for each in config_parser.ConfigParser(lines, _Values())
            if isinstance(each, config_parser.BindingStatement) and each.arg_name
        ]


class _Values(config_parser.ParserDelegate):
    """For who wants names alone."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        """A reference."""

    def macro(self, macro_name: str) -> None:
        """A macro."""


def _text() -> str:
    return gin.config_str(max_line_length=10_000)


def _operative() -> str:
    return gin.operative_config_str(max_line_length=10_000)


def _text_of(file: str) -> str:
    with contextlib.suppress(OSError, ValueError):
        return pathlib.Path(file).read_text("utf-8")
    return ""


def _read(root: str | None) -> Bindings:
    """The bindings of now, with those that are read."""
    return Bindings(_text(), [*([root] if root else ROOTS), *LAZY, *_of_users()])


def _of_users() -> set[str]:
    """Configurables of task modules: when they are called is not known."""
    names = {key.name for key in Bindings(_text(), []).values if key.argument}
    return names - CONFIGURABLES.keys()


def quiet_tensorflow() -> None:
    """From now on the first import of TensorFlow is quiet, see `seqrecipes.data.seqio.start`.

    Commands call this before they import what reads text.
    """
    from seqrecipes.data.seqio import start

    start.prepare()


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


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
