"""Models x tasks x seeds to tables: `python -m seqrecipes.protocol --gin_file=gin/protocol.gin`.

Chooses learning rates where there is a choice, fine-tunes every model on every task with every
seed, and shows the averages over seeds as Soltan et al. 2023 do. Given again, the command does what
is left.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status, signals_interrupt

if TYPE_CHECKING:
    from seqrecipes.downstream.protocol import Protocol


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if a run failed."""
    parser = flags_of.Parser("protocol", description=__doc__)
    parser.add_argument("--dry_run", action="store_true", help="say what would be run")
    parser.add_argument(
        "--side_by_side",
        type=flags_of.value(flags_of.Positive),
        default=1,
        metavar="N",
        help="runs at a time; GPUs are shared out between them (default: 1)",
    )
    parser.add_argument(
        "--paper", action="store_true", help="tables with the results of Soltan et al. 2023"
    )

    configuration.add_flags(parser)
    flags, bindings = configuration.parse_flags(parser, argv)
    return exit_status(
        lambda: _run(flags, bindings),
        interrupted="interrupted; the same command does what is left",
    )


def _run(flags: argparse.Namespace, bindings: list[str]) -> int:
    from seqrecipes.downstream import jobs
    from seqrecipes.downstream.protocol import described, protocol
    from seqrecipes.folders import locked
    from seqrecipes.training.accelerators import visible_gpus

    if not flags.gin_file:
        raise UserError("--gin_file", None, "name one, e.g. --gin_file=gin/protocol.gin")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths, "protocol")
    with configuration.required_values():
        wanted = protocol()
    where = jobs.places(flags.side_by_side, visible_gpus())
    print("\n".join(described(wanted)))
    wanted.check()
    if flags.dry_run:
        return 0
    with signals_interrupt(), locked(pathlib.Path(wanted.model_dir)):
        return _execute(wanted, where, paper=flags.paper)


def _execute(wanted: Protocol, where: Sequence[Mapping[str, str]], *, paper: bool) -> int:
    from seqrecipes import tables
    from seqrecipes.downstream import jobs

    if jobs.run(wanted.trials(), where, title="learning rates"):
        return 1
    rates = {task: wanted.rate(task) for task in wanted.tasks}
    for task, rate in rates.items():
        if rate is not None:
            print(f"{task}: learning rate {rate:g}")
    runs = wanted.runs(rates)
    failures = jobs.run(runs, where, title="runs")
    finished, shown = wanted.results, 0
    if any(job.done for job in runs):
        flags = [str(finished), "--output", str(finished.parent)]
        shown = tables.main(flags + (["--paper"] if paper else []))
    return 1 if failures else shown


if __name__ == "__main__":
    sys.exit(main())
