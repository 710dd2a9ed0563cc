"""Trains a recipe: `python -m seqrecipes.train --gin_file=gin/2stage_unfrz.gin`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from seqrecipes import configuration
from seqrecipes.config.recipe import train
from seqrecipes.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m seqrecipes.train", description=__doc__)
    parser.add_argument("--dry_run", action="store_true", help="check and print, train nothing")
    parser.add_argument("--stage", metavar="NAME", help="run this stage alone")
    group = parser.add_argument_group(
        "several processes", "on TPU pods and SLURM --multiprocess finds the rest by itself"
    )
    group.add_argument("--multiprocess", action="store_true", help="start jax.distributed")
    group.add_argument("--coordinator_address", metavar="HOST:PORT")
    group.add_argument("--process_count", type=int, metavar="N")
    group.add_argument("--process_index", type=int, metavar="I")

    configuration.add_tasks_flag(parser)
    configuration.add_flags(parser)
    flags, bindings = configuration.parse_flags(parser, argv)
    return exit_status(
        lambda: _run(flags, bindings),
        interrupted="interrupted; the same command goes on from the last checkpoint",
    )


def _run(flags: argparse.Namespace, bindings: list[str]) -> int:
    configuration.quiet_tensorflow()
    if not flags.gin_file:
        raise UserError("--gin_file", None, "name a recipe, e.g. --gin_file=gin/2stage_unfrz.gin")
    bindings = configuration.with_tasks(bindings, flags.tasks, "Recipe.tasks")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths)
    with configuration.required_values():
        wanted = train()
    if flags.stage:
        wanted.recipe.index(flags.stage)
    import jax

    if flags.multiprocess or flags.coordinator_address:
        jax.distributed.initialize(
            flags.coordinator_address, flags.process_count, flags.process_index
        )
    from seqrecipes import report, runner
    from seqrecipes.training import interruption, reporting

    reporting.log_to_terminal(jax.process_index())
    run = runner.Run(wanted.recipe, wanted.model_dir)
    if flags.dry_run:
        print(run.describe())
        return 0
    status = interruption.exit_status(lambda: run.execute(flags.stage))
    if status == 0 and jax.process_index() == 0 and flags.stage is None:
        print(report.write([run.model_dir], run.model_dir))
    return status


if __name__ == "__main__":
    sys.exit(main())
