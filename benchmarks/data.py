"""Tokens per second and core of the data pipeline, beside other libraries: see --help.

Everything runs in this one process, in turns, on the same packed blocks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.settings import Settings
from seqrecipes.errors import UserError, one_line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data",
        description="Measures how fast one core makes training batches, beside other libraries.",
        epilog="Peers that are not installed are named in the table with what installs them.",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="DIR",
        help="a folder of .txt or .jsonl files for each language (default: the bundled sample, "
        "repeated)",
    )
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="a spm.model (default: train one)"
    )
    parser.add_argument(
        "--vocabulary_size",
        type=int,
        help="ids of the vocabulary to train (default: 2000 for the sample, 16000 for --text)",
    )
    parser.add_argument(
        "--characters",
        type=int,
        default=Settings.characters,
        help="so much of the text is used at most (default: %(default)s)",
    )
    parser.add_argument(
        "--prepared",
        type=Path,
        metavar="DIR",
        help="read records that `python -m seqrecipes.prepare` wrote, in place of the text's",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=Settings.batch_size,
        help="examples in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=Settings.seconds,
        help="of each measurement (default: %(default)s)",
    )
    parser.add_argument(
        "--repetitions",
        type=int,
        default=Settings.repetitions,
        help="measurements of a case (default: %(default)s)",
    )
    parser.add_argument(
        "--objectives",
        metavar="NAMES",
        help="only these, separated by commas (default: all)",
    )
    parser.add_argument("--core", type=int, help="to pin to (default: the last one allowed)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("core", "json"):
        chosen.pop(name, None)
    if "objectives" in chosen:
        chosen["objectives"] = tuple(chosen["objectives"].split(","))
    try:
        settings = Settings(**chosen)
        core = machine.pin(options.core)
        # Imported late: libraries fix their number of threads when they are first imported.
        from benchmarks import results, suite

        with tempfile.TemporaryDirectory(prefix="seqrecipes-benchmark-") as folder:
            measured = suite.run(settings, Path(folder))
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    about = machine.describe(core)
    print(results.report(measured, about))
    if options.json:
        flags = {name: str(value) for name, value in vars(settings).items()}
        everything = {"machine": about, "settings": flags, **results.as_json(measured)}
        options.json.write_text(json.dumps(everything, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
