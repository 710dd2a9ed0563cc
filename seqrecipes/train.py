"""Trains a recipe: `python -m seqrecipes.train --gin_file=gin/2stage_unfrz.gin`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from seqrecipes.errors import UserError, one_line


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
    import jax

    if flags.multiprocess or flags.coordinator_address:
        jax.distributed.initialize(
            flags.coordinator_address, flags.process_count, flags.process_index
        )
    from seqrecipes import configuration, report, runner
    from seqrecipes.data.corpora import parallel_files, text_files, tfds_text  # noqa: F401 -- gin
    from seqrecipes.data.labelled import local_files, tfds_sets  # noqa: F401 -- gin
    from seqrecipes.training import reporting
    from seqrecipes.training.interruption import Interrupted

    reporting.log_to_terminal(jax.process_index())
    if not flags.gin_file:
        raise UserError("--gin_file", None, "name a recipe, e.g. --gin_file=gin/2stage_unfrz.gin")
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths)
    with configuration.required_values():
        run = runner.Run()
    if flags.dry_run:
        print(run.describe())
        return 0
    try:
        run.execute(flags.stage)
    except Interrupted as stop:
        print(f"stopped by {stop}: saved; the same command goes on from there", file=sys.stderr)
        return 128 + stop.signum
    if jax.process_index() == 0 and flags.stage is None:
        print(report.write([run.model_dir], run.model_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
