"""What recipes cost, and whether they fit: `python -m seqrecipes.plan --gin_file=gin/2stage.gin`.

Needs no accelerator and no text. Several recipes stand beside each other, with what each saves:
`python -m seqrecipes.plan gin/roberta_12e.gin gin/bart_12e12d.gin gin/2stage_unfrz.gin`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.config.check import Range
from seqrecipes.config.recipe import Pretraining, train
from seqrecipes.errors import UserError, exit_status
from seqrecipes.folders import check_writable

if TYPE_CHECKING:
    from jax import Device

    from seqrecipes.planning.costs import Plan
    from seqrecipes.planning.document import Machine

DOCUMENT_FILE = "plan.json"
TEXT_FILE = "plan.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("plan", description=__doc__)
    parser.add_argument(
        "recipes",
        type=flags_of.name,
        nargs="*",
        metavar="FILE",
        help="one gin file a recipe; --gin_file follows each",
    )
    parser.add_argument("--output", type=flags_of.path, help="folder for pictures and plan.json")
    group = parser.add_argument_group("hours and memory")
    group.add_argument("--accelerator", type=flags_of.name, metavar="NAME", help="h100, v5e, ...")
    group.add_argument(
        "--devices", type=flags_of.name, default="1", metavar="N", help="64, or a TPU topology: 4x8"
    )
    group.add_argument(
        "--compiler",
        default="cpu",
        choices=("cpu", "tpu"),
        help="tpu: compile for the TPU itself, with libtpu, which takes some minutes",
    )
    group.add_argument(
        "--utilisation",
        type=flags_of.value(Annotated[float, Range(above=0, most=1)]),
        default=0.4,
        help="share of the peak",
    )
    group.add_argument(
        "--reserve",
        type=flags_of.value(Annotated[float, Range(0, below=1)]),
        default=0.1,
        help="share of memory to stay free",
    )

    configuration.add_tasks_flag(parser)
    configuration.add_flags(parser)
    flags, bindings = configuration.parse_flags(parser, argv)
    return exit_status(lambda: _run(flags, bindings))


def _run(flags: argparse.Namespace, bindings: list[str]) -> None:
    configuration.quiet_tensorflow()
    bindings = configuration.with_tasks(bindings, flags.tasks, "Recipe.tasks")
    if not flags.recipes and not flags.gin_file:
        raise UserError("--gin_file", None, "name a recipe, e.g. --gin_file=gin/2stage_unfrz.gin")
    files = [[file, *flags.gin_file] for file in flags.recipes] or [flags.gin_file]
    names = [pathlib.Path(each[0]).stem for each in files]
    if len(set(names)) < len(names):
        raise UserError("FILE", names, "every recipe needs a name of its own")
    # All before the heavy imports, and once more where a plan reads what gin holds.
    for each in files:
        _read(each, bindings, flags.gin_search_paths)
    if flags.output:
        check_writable(flags.output, "--output")
    from seqrecipes.planning import devices

    machine = _machine(flags)
    present = (
        devices.of_topology(machine.accelerator, flags.devices)
        if machine and machine.compiler == "tpu"
        else devices.of_host(devices.count(flags.devices))
    )
    from seqrecipes.planning.document import document
    from seqrecipes.planning.text import text
    from seqrecipes.training import reporting

    reporting.log_to_terminal(0)
    plans = [
        _plan(name, _read(each, bindings, flags.gin_search_paths), present)
        for name, each in zip(names, files, strict=True)
    ]
    content = document(plans, machine)
    words = text(content)
    print(words)
    if flags.output:
        from seqrecipes.planning import pictures

        flags.output.mkdir(parents=True, exist_ok=True)
        (flags.output / DOCUMENT_FILE).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        (flags.output / TEXT_FILE).write_text(words + "\n", "utf-8")
        drawn = pictures.draw(content, flags.output)
        print(f"\nin {flags.output}: {', '.join([DOCUMENT_FILE, TEXT_FILE, *drawn])}")


def _machine(flags: argparse.Namespace) -> Machine | None:
    """The machine that the flags describe, if they name an accelerator."""
    from seqrecipes.planning import devices
    from seqrecipes.planning.document import Machine
    from seqrecipes.training import accelerators

    if not flags.accelerator:
        if flags.compiler != "cpu":
            raise UserError("--compiler", flags.compiler, "compiles for --accelerator; name one")
        return None
    return Machine(
        accelerators.named(flags.accelerator),
        devices.count(flags.devices),
        flags.compiler,
        flags.utilisation,
        flags.reserve,
    )


def _read(files: Sequence[str], bindings: Sequence[str], search_paths: str) -> Pretraining:
    """One recipe, as its files say."""
    import gin

    gin.clear_config()
    configuration.load(files, bindings, search_paths, "train")
    with configuration.required_values():
        return train()


def _plan(name: str, wanted: Pretraining, present: Sequence[Device]) -> Plan:
    """One recipe, resolved."""
    from seqrecipes import runner
    from seqrecipes.planning.costs import Plan

    run = runner.Run(wanted.recipe, wanted.model_dir, present)
    return Plan(name, run.resolve(), run.mesh)


if __name__ == "__main__":
    sys.exit(main())
