"""Trains a recipe: `python -m seqrecipes.train --gin_file=gin/2stage_unfrz.gin`."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.config.recipe import train
from seqrecipes.errors import UserError, exit_status
from seqrecipes.training import processes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("train", description=__doc__)
    parser.add_argument("--dry_run", action="store_true", help="check and print, train nothing")
    parser.add_argument("--stage", type=flags_of.name, metavar="NAME", help="run this stage alone")
    processes.add_flags(parser)
    configuration.add_tasks_flag(parser)
    configuration.add_flags(parser)
    flags, bindings = configuration.parse_flags(parser, argv)
    return exit_status(
        lambda: processes.run(flags, lambda: _run(flags, bindings)),
        interrupted="interrupted; the same command goes on from the last checkpoint",
    )


def _run(flags: argparse.Namespace, bindings: list[str]) -> int:
    configuration.quiet_tensorflow()
    if not flags.gin_file:
        raise UserError("--gin_file", None, "name a recipe, e.g. --gin_file=gin/2stage_unfrz.gin")
    bindings = configuration.with_tasks(bindings, flags.tasks, "Recipe.tasks")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths, "train")
    with configuration.required_values():
        wanted = train()
    if flags.stage is not None:
        wanted.recipe.index(flags.stage)
    import jax

    from seqrecipes import report, runner
    from seqrecipes.training import interruption, reporting

    reporting.log_to_terminal(jax.process_index())
    checked = functools.partial(configuration.check_called, bindings, "train")
    run = runner.Run(wanted.recipe, wanted.model_dir)
    if flags.dry_run:
        words = run.describe()
        checked()
        print(words)
        return 0
    status = interruption.exit_status(lambda: run.execute(flags.stage, checked=checked))
    if status == 0 and jax.process_index() == 0 and flags.stage is None:
        print(report.write([run.model_dir], run.model_dir))
    return status


if __name__ == "__main__":
    sys.exit(main())
