"""Flags that say which text a command reads."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqrecipes import configuration
from seqrecipes.errors import UserError

if TYPE_CHECKING:
    from seqrecipes.data.corpora.corpus import Corpus

# The corpora whose files a user names, and where gin holds them.
_FILES = {"text": "TextFiles.files", "parallel": "ParallelFiles.files"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, on a command's parser."""
    parser.add_argument(
        "--files",
        action="append",
        default=[],
        metavar="LANGUAGE=PATH",
        help="files of a language (corpus text: en=texts/en) or of a pair (corpus parallel: "
        "de-en=opus/de-en.tsv.gz): a folder or a glob; may be repeated",
    )
    configuration.add_tasks_flag(parser, "tasks.pretrain")
    configuration.add_flags(parser)


def configure(
    flags: argparse.Namespace, corpus: str, bindings: Sequence[str], vocabulary: str | None = None
) -> None:
    """Registers the tasks and binds what the flags say.

    Args:
      flags: of a parser with `add_flags`.
      corpus: the one to be read.
      bindings: the `--gin.NAME=value` among the arguments, as `NAME = value`.
      vocabulary: path of a spm.model, which the bindings may replace.

    Raises:
      UserError: a flag that cannot be used.
    """
    configuration.quiet_tensorflow()
    # Imported late: --help should answer at once.
    from seqrecipes.data.registry import import_tasks

    import_tasks(flags.tasks, "--tasks")
    files: dict[str, list[str]] = {}
    for item in flags.files:
        language, separator, path = item.partition("=")
        if not (language and separator and path):
            raise UserError("--files", item, "write it as LANGUAGE=PATH, such as en=texts/en.")
        files.setdefault(language, []).append(path)
    if files and corpus not in _FILES:
        raise UserError("--files", flags.files, f"goes with corpus {' or '.join(_FILES)}.")
    if vocabulary:
        bindings = [f"pretraining_vocabulary.path = {os.path.abspath(vocabulary)!r}", *bindings]
    if files:
        bindings = [f"{_FILES[corpus]} = {files!r}", *bindings]
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths)


def get_corpus(name: str) -> Corpus:
    """A registered corpus, as configured."""
    from seqrecipes.data.tasks import known_tasks

    tasks = known_tasks()
    if name not in tasks:
        raise UserError("--corpus", name, f"choose one of {', '.join(sorted(tasks))}.")
    return next(iter(tasks[name].values())).corpus
