"""Fine-tunes a checkpoint on a labelled set, seed after seed, and scores it in every language.

`python -m seqrecipes.finetune --gin_file=gin/finetune/udpos.gin
--gin.CHECKPOINT="'runs/roberta_12e/roberta_12e'" --gin.LABELLED_FILES="'data'"`
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from seqrecipes.errors import UserError, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m seqrecipes.finetune", description=__doc__)
    parser.add_argument("--dry_run", action="store_true", help="check and print, train nothing")

    # gin is light; jax and TensorFlow are imported after --help had its chance.
    from seqrecipes import configuration

    configuration.add_flags(parser)
    flags, bindings = configuration.parse_flags(parser, argv)
    try:
        return _run(flags, bindings)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _run(flags: argparse.Namespace, bindings: list[str]) -> int:
    # TensorFlow only reads text here; what it says of GPUs is noise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from seqrecipes import configuration, recipe  # noqa: F401 -- gin
    from seqrecipes.data.labelled import local_files, tfds_sets  # noqa: F401 -- gin
    from seqrecipes.downstream import runs
    from seqrecipes.training import reporting
    from seqrecipes.training.interruption import Interrupted

    reporting.log_to_terminal(0)
    if not flags.gin_file:
        raise UserError("--gin_file", None, "name one, e.g. --gin_file=gin/finetune/udpos.gin")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths)
    with configuration.required_values():
        run = runs.Run()
    if flags.dry_run:
        print(run.describe())
        return 0
    try:
        print(run.execute())
    except Interrupted as stop:
        print(f"stopped by {stop}: saved; the same command goes on from there", file=sys.stderr)
        return 128 + stop.signum
    return 0


if __name__ == "__main__":
    sys.exit(main())
