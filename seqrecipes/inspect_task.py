"""Shows what a task makes of text: `python -m seqrecipes.inspect_task --help`."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from seqrecipes import configuration, corpus_flags
from seqrecipes.config import flags as flags_of
from seqrecipes.config.check import Range
from seqrecipes.config.vocabulary import TRAIN_COMMAND
from seqrecipes.errors import UserError, exit_status

if TYPE_CHECKING:
    from seqrecipes.inspection.excerpt import Excerpt
    from seqrecipes.inspection.findings import Findings

_SUFFIXES = (".html", ".png")
_DEFAULT_COLUMNS = 120  # where no terminal says how wide it is


def _parser() -> argparse.ArgumentParser:
    parser = flags_of.Parser(
        "inspect_task",
        description="Shows examples of a task, source beside target with the noise marked, and "
        "statistics of many more. Of a large corpus it reads only what these need.",
    )
    parser.add_argument(
        "task", type=flags_of.name, metavar="TASK", help="<corpus>.<objective>, such as sample.mlm"
    )
    parser.add_argument("--vocabulary", type=flags_of.name, metavar="FILE", help="a spm.model")
    parser.add_argument(
        "--sequence_length",
        type=flags_of.value(flags_of.Length),
        default=512,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--examples",
        type=flags_of.value(flags_of.Count),
        default=3,
        help="to show (default: %(default)s)",
    )
    parser.add_argument(
        "--records",
        type=flags_of.value(flags_of.Positive),
        default=2000,
        help="to count, evenly over the languages (default: %(default)s)",
    )
    parser.add_argument("--split", default="train", choices=("train", "validation"))
    parser.add_argument(
        "--language", action="append", default=[], help="only this one; may be repeated"
    )
    parser.add_argument(
        "--seed",
        type=flags_of.value(flags_of.Seed),
        default=0,
        help="of the noise (default: %(default)s)",
    )
    parser.add_argument(
        "--epoch",
        type=flags_of.value(Annotated[int, Range(0, below=2**64)]),
        default=0,
        help="how often the text was read before (default: 0)",
    )
    parser.add_argument(
        "--alpha",
        type=flags_of.value(flags_of.Share),
        default=0.3,
        help="exponent of the languages' shares (default: 0.3)",
    )
    parser.add_argument("--ids", action="store_true", help="show the id of every token")
    parser.add_argument(
        "--prepared",
        type=flags_of.name,
        metavar="DIR",
        help="read what `python -m seqrecipes.prepare` wrote there in place of the corpus",
    )
    parser.add_argument(
        "--output",
        type=flags_of.path,
        metavar="FILE",
        help=".html: examples and statistics as a page; .png: statistics as a picture",
    )
    corpus_flags.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    flags, bindings = configuration.parse_flags(_parser(), argv)
    try:
        return exit_status(lambda: _run(flags, bindings))
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(flags: argparse.Namespace, bindings: list[str]) -> None:
    _check(flags)
    findings = _collect(flags, bindings)
    from seqrecipes.inspection.terminal import Terminal

    is_terminal = sys.stdout.isatty()
    terminal = Terminal(
        width=shutil.get_terminal_size((_DEFAULT_COLUMNS, 0)).columns,
        colour=is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        ids=flags.ids,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A text in twelve scripts is better with gaps than not at all.
        sys.stdout.reconfigure(errors="replace")
    print(terminal.findings(findings), flush=True)
    if flags.output:
        _write(findings, flags.output, ids=flags.ids)
        print(f"\nwrote {flags.output}")


def _check(flags: argparse.Namespace) -> None:
    """Refuses at once what would be found out late."""
    if flags.output and flags.output.suffix not in _SUFFIXES:
        raise UserError("--output", str(flags.output), f"ends in {' or '.join(_SUFFIXES)}.")
    if flags.output:
        try:
            flags.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(flags.output, error) from error


def _collect(flags: argparse.Namespace, bindings: list[str]) -> Findings:
    corpus, _, objective = flags.task.partition(".")
    corpus_flags.configure(flags, corpus, bindings, flags.vocabulary)
    from seqrecipes.data.blocks import find_prepared, wanted_records
    from seqrecipes.data.objectives.base import check_sentinels
    from seqrecipes.data.tasks import get_task
    from seqrecipes.inspection.excerpt import PreparedExcerpt, RawExcerpt, choose_languages
    from seqrecipes.inspection.findings import Settings, collect

    task = get_task(corpus, objective)
    vocabulary = task.vocabulary
    payload = task.objective.payload(flags.sequence_length)
    bound = any(binding.startswith("pretraining_vocabulary.") for binding in bindings)
    if not (flags.vocabulary or flags.gin_file or bound):
        sentinels = task.objective.sentinels(payload)
        command = TRAIN_COMMAND + (f" --sentinels={sentinels}" if sentinels else "")
        raise UserError("--vocabulary", None, f"name a spm.model; `{command}` trains one.")
    check_sentinels(task.objective, payload, vocabulary.specials)
    excerpt: Excerpt
    if flags.prepared:
        wanted = wanted_records(task, payload)
        blocks = find_prepared(flags.prepared, wanted, field="--prepared")
        excerpt = PreparedExcerpt(blocks, flags.split)
    else:
        excerpt = RawExcerpt(task, flags.split, payload)
    languages = choose_languages(flags.language, excerpt.languages)
    facts = {
        "objective": repr(task.objective),
        "text": f"{flags.split} split of {flags.prepared or corpus}",
        "vocabulary": f"{vocabulary.path}, {vocabulary.size:,} ids",
        "sequence_length": f"{flags.sequence_length} (segments of {payload} tokens)",
        "noise": f"seed {flags.seed}, epoch {flags.epoch}",
    }
    settings = Settings(
        payload, flags.records, flags.examples, flags.seed, flags.epoch, flags.alpha
    )
    piece = vocabulary.tokenizer.IdToPiece
    findings = collect(flags.task, facts, task.objective, excerpt, languages, piece, settings)
    if not findings.total.records:
        raise UserError("--split", flags.split, f"has no text in {', '.join(languages)}.")
    return findings


def _write(findings: Findings, path: pathlib.Path, *, ids: bool) -> None:
    try:
        if path.suffix == ".png":
            from seqrecipes.inspection.plots import write_png

            write_png(findings, path)
        else:
            from seqrecipes.inspection.page import page

            path.write_text(page(findings, ids=ids), "utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: pathlib.Path, error: OSError) -> UserError:
    return UserError("--output", str(path), f"cannot be written: {error.strerror}.")


if __name__ == "__main__":
    sys.exit(main())
