"""Tokens per second of a training step, beside other libraries: see --help.

Every measurement runs in a process of its own, without TensorFlow (but for t5x, which imports it)
and on synthetic batches that lie on the device.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.step import cases, picture, programs, rounds, table
from benchmarks.timing import Missing
from seqrecipes.errors import UserError, one_line

_LIBRARIES = ("jax", "flax", "optax", "torch", "transformers", "t5x", "numpy")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description="Measures updates of models on one device, beside other libraries.",
        epilog="Peers that are not installed are named below the table with what installs them.",
    )
    parser.add_argument(
        "--group",
        choices=cases.GROUPS,
        help="shapes to measure (default: small on processors, paper on accelerators)",
    )
    everything = re.compile("")
    parser.add_argument(
        "--cases",
        type=_expression,
        default=everything,
        metavar="REGEX",
        help="only those in whose names this is found",
    )
    parser.add_argument(
        "--programs",
        type=_expression,
        default=everything,
        metavar="REGEX",
        help=f"likewise of {'; '.join(programs.PROGRAMS)}",
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="measure transformers with torch.compile too (default: on accelerators)",
    )
    defaults = ", ".join(f"{n} for {g}" for g, n in cases.DEFAULT_BATCH.items())
    parser.add_argument("--batch", type=int, help=f"examples of an update (default: {defaults})")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the models' configuration to replace, for all programs; repeatable",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="processes of each program (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="measured updates of each (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup", type=int, default=2, help="updates before those (default: %(default)s)"
    )
    parser.add_argument(
        "--allocator",
        choices=rounds.ALLOCATORS,
        default="keep",
        help="of all processes: keep what is freed, huge pages, or glibc's default "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also draw a picture, a .png or .svg"
    )
    return parser


def _expression(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"no regular expression: {error}") from error


def overrides(settings: Sequence[str]) -> dict[str, Any]:
    """{field: value} of `FIELD=VALUE`; a value that is no Python literal is text.

    Raises:
      UserError: there is no `=`.
    """
    result = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError("--set", setting, "write FIELD=VALUE: --set attention_dropout=0.0")
        try:
            result[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            result[name] = text
    return result


def _measure(options: argparse.Namespace) -> table.Results:
    for flag, least in (("rounds", 1), ("warmup", 1), ("steps", 2)):
        if getattr(options, flag) < least:
            raise UserError(f"--{flag}", getattr(options, flag), f"must be at least {least}")
    replaced = overrides(options.set)
    # Another process asks, because a GPU that is looked at is a GPU that is taken.
    on_cpu = rounds.worker("device", options.allocator) == "cpu"
    group = options.group or ("small" if on_cpu else "paper")
    compiles = options.compile if options.compile is not None else not on_cpu
    chosen = [
        program
        for program in programs.PROGRAMS
        if options.programs.search(program) and (compiles or program != programs.COMPILED)
    ]
    todo = {
        case.name: rounds.jobs(case, chosen, replaced, warmup=options.warmup, steps=options.steps)
        for case in cases.group(group, options.batch)
        if options.cases.search(case.name)
    }
    if not any(todo.values()):
        remedy = f"no program of {chosen} has such a case in the group {group}"
        raise UserError("--cases", options.cases.pattern, remedy)
    measured: list[rounds.Measured] = []
    missing: list[Missing] = []
    for name, jobs in todo.items():
        done, absent = rounds.run(
            name,
            jobs,
            options.rounds,
            options.allocator,
            on_cpu=on_cpu,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        measured += done
        missing += absent
    return table.Results(
        measured, missing, options.allocator, options.warmup, options.steps, options.rounds
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if one of our own steps failed."""
    options = _parser().parse_args(arguments)
    try:
        results = _measure(options)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    about = machine.describe(None, _LIBRARIES)
    print(table.report(results, about))
    if options.json:
        everything = {"machine": about, **table.as_json(results)}
        options.json.write_text(json.dumps(everything, indent=2) + "\n", "utf-8")
    if options.picture and results.measured:
        picture.draw(results.measured, options.picture)
    return int(any(each.name == programs.OURS for each in results.missing))


if __name__ == "__main__":
    sys.exit(main())
