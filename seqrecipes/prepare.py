"""Tokenizes and packs a corpus once, on one machine or many: see `--help`."""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from seqrecipes import configuration, corpus_flags
from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status
from seqrecipes.folders import check_writable

if TYPE_CHECKING:
    from seqrecipes.data.preparation import Preparation


def _parser() -> argparse.ArgumentParser:
    parser = flags_of.Parser(
        "prepare",
        description="Tokenizes and packs a corpus into a folder that training reads "
        "(--gin.PREPARED). Given again, the same command does what is left.",
    )
    parser.add_argument(
        "--corpus", type=flags_of.name, required=True, help="a corpus of the task module"
    )
    parser.add_argument(
        "--vocabulary", type=flags_of.name, required=True, metavar="FILE", help="a spm.model"
    )
    parser.add_argument(
        "--output",
        type=flags_of.name,
        required=True,
        metavar="DIR",
        help="gets a folder blocks-...",
    )
    parser.add_argument(
        "--objective",
        type=flags_of.name,
        default="mlm",
        help="what the text is for; those that read the same share it (default: %(default)s)",
    )
    parser.add_argument(
        "--sequence_length",
        type=flags_of.value(flags_of.Length),
        default=512,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--runner",
        type=flags_of.name,
        help="Beam's: DirectRunner, DataflowRunner, FlinkRunner, ...; without one this process "
        "does the work, with --pipeline_option alone DirectRunner",
    )
    parser.add_argument(
        "--pipeline_option",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="for Beam, e.g. direct_num_workers=8; may be repeated",
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be done, and check")
    parser.add_argument("--verify", action="store_true", help="compare all checksums, do no more")
    corpus_flags.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    flags, bindings = configuration.parse_flags(_parser(), argv)
    return exit_status(
        lambda: _run(flags, bindings), interrupted="interrupted; the same command does what is left"
    )


def _run(flags: argparse.Namespace, bindings: list[str]) -> None:
    logging.basicConfig(format="%(message)s")
    corpus_flags.configure(flags, flags.corpus, bindings, flags.vocabulary)
    from seqrecipes.data.objectives.base import check_sentinels
    from seqrecipes.data.preparation import Preparation, complete
    from seqrecipes.data.tasks import get_task

    task = get_task(flags.corpus, flags.objective)
    payload = task.objective.payload(flags.sequence_length)
    check_sentinels(task.objective, payload, task.vocabulary.specials)
    if "://" not in flags.output:
        check_writable(flags.output, "--output")
    preparation = Preparation.of(task, payload, flags.output)
    if flags.verify:
        _verify(preparation)
        return
    if flags.pipeline_option:
        flags.runner = flags.runner or "DirectRunner"
    if not flags.runner and "://" in flags.output:
        raise UserError("--output", flags.output, "is written by Beam: add --runner=DirectRunner")
    print(_plan(preparation, flags))
    if flags.runner:
        beam = _import_beam()
        options = beam.pipeline_options(flags.runner, flags.pipeline_option)
        beam.run(preparation, options, flags.tasks, flags.dry_run)
    elif not flags.dry_run:
        complete(preparation)
    if flags.dry_run:
        print("dry run: nothing was written")
        return
    print(_table(preparation))
    print(
        f"\nTrain on it: --gin.CORPUS=\"'{flags.corpus}'\" --gin.PREPARED=\"'{flags.output}'\" "
        f"--gin.VOCABULARY=\"'{flags.vocabulary}'\" "
        f"--gin.SEQUENCE_LENGTH={flags.sequence_length}"
    )


def _import_beam() -> ModuleType:
    logging.disable(logging.WARNING)  # it warns of Google's libraries, which few need
    try:
        from seqrecipes.data import beam
    except ImportError as error:
        raise UserError(
            "apache-beam", None, f"{error}; install it with pip install -e '.[beam]'"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    # What goes wrong in a worker comes out of the pipeline; it need not be told twice.
    logging.getLogger("apache_beam.runners").setLevel(logging.CRITICAL)
    return beam


def _plan(preparation: Preparation, flags: argparse.Namespace) -> str:
    shards, missing = len(preparation.shards), len(preparation.missing())
    languages = preparation.task.corpus.languages
    return (
        f"{flags.corpus}: {len(languages)} languages ({', '.join(languages)}), {shards} shards, "
        f"{shards - missing} of them done\n"
        f"into {preparation.folder} {f'with {flags.runner}' if flags.runner else 'in this process'}"
    )


def _table(preparation: Preparation) -> str:
    """What was read, by language."""
    from seqrecipes.data.blocks import Blocks

    manifest = Blocks(pathlib.Path(preparation.folder)).manifest
    rows = [
        f"{'':<12}{'language':<10}{'documents':>12}{'tokens':>15}{'records':>12}{'unknown':>10}"
        f"{'chars/token':>13}{'empty':>9}{'cut':>9}{'bad':>7}"
    ]
    for split, languages in manifest["splits"].items():
        for language, n in languages.items():
            tokens = max(n["tokens"], 1)
            rows.append(
                f"{split:<12}{language:<10}{n['documents']:>12,}{n['tokens']:>15,}"
                f"{n['blocks']:>12,}{n['unknown_tokens'] / tokens:>10.3%}"
                f"{n['characters'] / tokens:>13.2f}{n['empty_documents']:>9,}"
                f"{n['cut_documents']:>9,}{n['bad_records']:>7,}"
            )
    return "\n".join(rows)


def _verify(preparation: Preparation) -> None:
    from tqdm import tqdm

    from seqrecipes.data.blocks import Blocks

    blocks = Blocks(pathlib.Path(preparation.folder))
    total = len(preparation.shards)
    for _ in tqdm(blocks.verify(), "verifying", total, disable=not sys.stderr.isatty()):
        pass
    print(f"{blocks.folder}: {total} shards are as they were written")


if __name__ == "__main__":
    status = main()
    if status:
        # Beam's threads may wait for ever for a worker that is gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
