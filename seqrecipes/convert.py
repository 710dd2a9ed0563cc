"""Makes another model of a checkpoint, or takes one to Hugging Face's format and back.

`--conversion=encoder_to_seq2seq --model=configs/bart_12e12d.py --size=mini runs/demo/roberta_12e
runs/converted` prints where every parameter went, `--to=hf runs/demo/roberta_12e exported` writes a
folder that transformers opens, `--from=hf xlm-roberta-base imported` makes a checkpoint of one.
"""

from __future__ import annotations

import argparse
import ast
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("convert", description=__doc__)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=flags_of.path,
        help="a stage's folder or a checkpoint; with --from=hf a folder of theirs",
    )
    parser.add_argument("output", metavar="OUT_DIR", type=flags_of.path, help="must not exist yet")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--conversion", type=flags_of.name, metavar="NAME", help="make another model of it"
    )
    mode.add_argument("--to", choices=["hf"], help="write a folder that transformers opens")
    mode.add_argument("--from", choices=["hf"], dest="from_", help="read such a folder")
    parser.add_argument(
        "--vocabulary",
        type=flags_of.name,
        metavar="FILE",
        help="--to: the checkpoint's, where it is not beside it; else the new model's",
    )
    parser.add_argument(
        "--fsdp",
        type=flags_of.value(flags_of.Positive),
        default=1,
        metavar="N",
        help="devices of the fsdp axis",
    )
    parser.add_argument(
        "--tensor",
        type=flags_of.value(flags_of.Positive),
        default=1,
        metavar="N",
        help="of the tensor axis",
    )

    conversion = _Options(parser, "with --conversion")
    conversion.add(
        "--model",
        type=flags_of.name,
        metavar="FILE",
        help="of the target, in configs/; default: unchanged",
    )
    conversion.add(
        "--size", type=flags_of.name, metavar="NAME", help="of the target's file; default: full"
    )
    conversion.add(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="replaces a field of the target's configuration, e.g. tie_head=False",
    )
    conversion.add(
        "--source_vocabulary",
        type=flags_of.name,
        metavar="FILE",
        help="the checkpoint's, where it is not beside it",
    )
    conversion.add("--dry_run", action="store_true", help="check and print, write nothing")
    export = _Options(parser, "with --to=hf")
    export.add("--headless", action="store_true", help="the encoder alone, without a head")
    back = _Options(parser, "with --from=hf")
    back.add(
        "--sentinels",
        type=flags_of.value(flags_of.Count),
        default=0,
        metavar="N",
        help="to add to the vocabulary",
    )
    new = _Options(parser, "with --conversion or --from=hf")
    new.add(
        "--seed", type=flags_of.value(flags_of.Seed), default=0, help="of parameters that are new"
    )
    either = _Options(parser, "with --to=hf or --from=hf")
    either.add("--verify", action="store_true", help="compare with transformers")

    flags = parser.parse_args(argv)
    chosen = [conversion, new] if flags.conversion else [export if flags.to else back, either]
    if flags.from_:
        chosen.append(new)
    for options in (conversion, export, back, new, either):
        if options not in chosen and (unread := options.given(flags)):
            parser.error(f"{', '.join(unread)}: only {options.title}")
    return exit_status(lambda: print(_run(flags)), interrupted="interrupted; nothing was written")


class _Options:
    """Flags that belong to some of the ways to call the command."""

    def __init__(self, parser: argparse.ArgumentParser, title: str):
        self.title = title
        self._group = parser.add_argument_group(title)
        self._actions: list[argparse.Action] = []

    def add(self, name: str, **settings: Any) -> None:
        """Adds a flag."""
        self._actions.append(self._group.add_argument(name, **settings))

    def given(self, flags: argparse.Namespace) -> list[str]:
        """Those that are not as they are by default."""
        return [
            action.option_strings[0]
            for action in self._actions
            if getattr(flags, action.dest) != action.default
        ]


def _run(flags: argparse.Namespace) -> str:
    from seqrecipes import hugging_face
    from seqrecipes.config.training import Partitioning
    from seqrecipes.training import checkpoints

    if flags.output.exists():
        raise UserError("OUT_DIR", str(flags.output), "exists already; name a new folder")
    partitioning = Partitioning(fsdp=flags.fsdp, tensor=flags.tensor)
    partitioning.mesh()  # are there so many devices?
    if flags.from_:
        return hugging_face.import_folder(
            flags.source,
            flags.output,
            vocabulary=flags.vocabulary,
            sentinels=flags.sentinels,
            verify=flags.verify,
            partitioning=partitioning,
            seed=flags.seed,
        )
    checkpoint = checkpoints.find(flags.source, field="SOURCE")
    if flags.conversion:
        return _convert(checkpoint, flags, partitioning)
    return hugging_face.export_checkpoint(
        checkpoint,
        flags.output,
        vocabulary=flags.vocabulary,
        headless=flags.headless,
        verify=flags.verify,
        partitioning=partitioning,
    )


def _convert(checkpoint: pathlib.Path, flags: argparse.Namespace, partitioning: Any) -> str:
    from seqrecipes import hugging_face, models
    from seqrecipes.conversion import warm_start
    from seqrecipes.data import pieces
    from seqrecipes.models import ModelConfig
    from seqrecipes.models import config as model_config
    from seqrecipes.training import checkpoints

    metadata = checkpoints.read_metadata(checkpoint)
    source = ModelConfig.from_dict(metadata["model"], field="SOURCE")
    old = new = hugging_face.find_vocabulary(
        checkpoint, metadata, flags.source_vocabulary, flag="--source_vocabulary"
    )
    if flags.vocabulary:
        new = pieces.load(flags.vocabulary).data
    lists = pieces.pieces(old), pieces.pieces(new)
    rows = len(lists[1]) if flags.vocabulary else source.vocab_size
    overrides = _overrides(flags.set)
    if flags.model:
        target = model_config.load(
            flags.model, size=flags.size or "full", vocab_size=rows, overrides=overrides
        )
    elif flags.size:
        raise UserError("--size", flags.size, "is of a file; name it with --model")
    else:
        target = model_config.override(source, {"vocab_size": rows} | overrides)
    warm_start.check(
        flags.conversion,
        source,
        target,
        source_vocabulary=pieces.checksum(old),
        target_vocabulary=pieces.checksum(new),
        pieces=lists,
    )
    shapes = models.parameter_shapes(source)
    if flags.dry_run:
        wanted = models.parameter_shapes(target)
        return str(warm_start.plan(flags.conversion, shapes, wanted, pieces=lists))
    params, account = warm_start.from_checkpoint(
        flags.conversion,
        checkpoint,
        shapes,
        initialise=functools.partial(models.init_params, target, flags.seed),
        placement=partitioning.placement(),
        pieces=lists,
    )
    checkpoints.save_params(
        flags.output,
        params,
        {
            "model": target.to_dict(),
            "converted_from": str(checkpoint),
            "conversion": flags.conversion,
        },
        vocabulary=new,
        account=str(account),
    )
    return f"{account}\nwritten to {flags.output}; use it as WarmStart.source with 'identity'"


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
