"""Converts a checkpoint into one of another model, to warm-start from.

`python -m seqrecipes.convert --conversion=encoder_to_seq2seq --model=configs/bart_12e12d.py
--size=mini runs/demo/roberta_12e runs/converted` prints where every parameter went.
"""

from __future__ import annotations

import argparse
import ast
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from seqrecipes.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m seqrecipes.convert", description=__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a stage's folder or a checkpoint")
    parser.add_argument("output", metavar="OUT_DIR", type=pathlib.Path, help="must not exist yet")
    parser.add_argument("--conversion", required=True, metavar="NAME")
    parser.add_argument("--model", required=True, metavar="FILE", help="of the target, in configs/")
    parser.add_argument("--size", default="full", help="of the target")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replaces a field of the target's configuration, e.g. tie_head=False",
    )
    parser.add_argument("--seed", type=int, default=0, help="of parameters that are new")
    parser.add_argument("--dry_run", action="store_true", help="check and print, write nothing")
    flags = parser.parse_args(argv)
    return exit_status(lambda: print(_run(flags)))


def _run(flags: argparse.Namespace) -> str:
    from seqrecipes import models, resolve
    from seqrecipes.conversion import warm_start
    from seqrecipes.models import config as model_config
    from seqrecipes.training import checkpoints
    from seqrecipes.training.partitioning import Partitioning
    from seqrecipes.training.step import init_params

    if flags.output.exists():
        raise UserError("OUT_DIR", str(flags.output), "exists already; name a new folder")
    checkpoint = checkpoints.find(flags.checkpoint, field="CHECKPOINT")
    metadata = checkpoints.read_metadata(checkpoint)
    source = models.ModelConfig(**metadata["model"])
    target = model_config.load(
        flags.model, size=flags.size, vocab_size=source.vocab_size, overrides=_overrides(flags.set)
    )
    vocabulary = metadata["vocabulary"]
    warm_start.check(
        flags.conversion, source, target, source_vocabulary=vocabulary, target_vocabulary=vocabulary
    )
    shapes = resolve.parameter_shapes(source)
    if flags.dry_run:
        return str(warm_start.plan(flags.conversion, shapes, resolve.parameter_shapes(target)))
    partitioning = Partitioning()
    mesh = partitioning.mesh()
    params, account = warm_start.from_checkpoint(
        flags.conversion,
        checkpoint,
        shapes,
        initialise=functools.partial(
            init_params, models.build(target), flags.seed, resolve.any_features(target)
        ),
        layout=functools.partial(partitioning.parameter_shardings, mesh=mesh),
    )
    written = checkpoints.save_params(
        flags.output,
        params,
        {
            "model": target.to_dict(),
            "vocabulary": vocabulary,
            "converted_from": str(checkpoint),
            "conversion": flags.conversion,
        },
    )
    return f"{account}\nwritten to {written}; use it as WarmStart.source with 'identity'"


def _overrides(settings: Sequence[str]) -> dict[str, Any]:
    values = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
        if not separator:
            raise UserError("--set", setting, "write FIELD=VALUE")
    return values


if __name__ == "__main__":
    sys.exit(main())
