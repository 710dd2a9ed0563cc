"""Fine-tunes a checkpoint on a labelled set, seed after seed, and scores it in every language.

`python -m seqrecipes.finetune --gin_file=gin/finetune/udpos.gin
--gin.CHECKPOINT="'runs/roberta_12e/roberta_12e'" --gin.LABELLED_FILES="'data'"`
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.config.finetuning import finetune
from seqrecipes.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("finetune", description=__doc__)
    parser.add_argument("--dry_run", action="store_true", help="check and print, train nothing")

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
        raise UserError("--gin_file", None, "name one, e.g. --gin_file=gin/finetune/udpos.gin")
    bindings = configuration.with_tasks(bindings, flags.tasks, "Finetuning.tasks")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths, "finetune")
    with configuration.required_values():
        wanted = finetune()
    from seqrecipes.downstream import runs
    from seqrecipes.training import interruption, reporting

    reporting.log_to_terminal(0)
    checked = functools.partial(configuration.check_called, bindings, "finetune")
    run = runs.Run(wanted.finetuning, wanted.model_dir)
    if flags.dry_run:
        words = run.describe()
        checked()
        print(words)
        return 0
    return interruption.exit_status(lambda: print(run.execute(checked=checked)))


if __name__ == "__main__":
    sys.exit(main())
