"""What `seqrecipes.plan` predicts beside what XLA counts and what a step takes: see --help.

Every case runs in a process of its own, which starts with nothing in memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

MIB = 2**20
FROZEN = ("encoder", "token_embedding")
SEQ2SEQ = {"encoder_input_tokens": 440, "decoder_input_tokens": 512, "decoder_target_tokens": 512}
MLM = {"encoder_input_tokens": 512, "masked_positions": 80, "masked_targets": 80}


@dataclasses.dataclass(frozen=True)
class Case:
    """One update of one model.

    Attributes:
      model: a file in `configs/`, without its suffix.
      size: one of its sizes.
      batch: examples.
      freeze: what does not train.
      micro_batches: parts of the batch, one after the other.
      devices: how many share the parameters.
      overrides: fields of the model to replace.
    """

    model: str
    size: str
    batch: int
    freeze: tuple[str, ...] = ()
    micro_batches: int = 1
    devices: int = 1
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


# FLOPs: one example of the paper's size. XLA counts the body of a loop once and counts random bits
# like arithmetic, so that layers are unrolled and nothing is dropped.
_COUNTED = {"scan_layers": False, "dropout": 0.0, "attention_dropout": 0.0, "vocab_size": 150_000}
_UNTIED = _COUNTED | {"tie_head": False}
FLOPS = {
    "roberta_12e": Case("roberta_12e", "full", 1, overrides=_COUNTED),
    "2stage, frozen": Case("bart_12e12d", "full", 1, FROZEN, overrides=_UNTIED),
    "2stage, unfrozen": Case("bart_12e12d", "full", 1, overrides=_UNTIED),
    "bart_12e2d": Case("bart_12e2d", "full", 1, overrides=_COUNTED),
}
# Memory: shapes whose activations, gradients and logits weigh differently.
MEMORY = {
    "roberta_12e, mini, 16 examples": Case(
        "roberta_12e", "mini", 16, overrides={"vocab_size": 16_000}
    ),
    "2stage frozen, mini, 2 x 8 examples": Case(
        "bart_12e12d", "mini", 16, FROZEN, 2, overrides={"vocab_size": 32_000, "tie_head": False}
    ),
    "roberta_12e, full, 1 example": Case(
        "roberta_12e", "full", 1, overrides={"vocab_size": 50_000, "dtype": "float32"}
    ),
    "bart_12e2d, mini, 4 devices, 16 examples": Case(
        "bart_12e2d", "mini", 16, devices=4, overrides={"vocab_size": 32_000}
    ),
}


def _training(case: Case) -> Any:
    from benchmarks import one_stage
    from seqrecipes.config.training import Partitioning
    from seqrecipes.models import config

    overrides = dict(case.overrides)
    vocabulary = overrides.pop("vocab_size")
    shape = config.load(
        f"configs/{case.model}.py", size=case.size, vocab_size=vocabulary, overrides=overrides
    )
    return one_stage.stage(
        shape,
        SEQ2SEQ if shape.decoder_layers else MLM,
        case.batch,
        tokens=512,
        freeze=case.freeze,
        partitioning=Partitioning(fsdp=case.devices, micro_batches=case.micro_batches),
    )


def flops_of(case: Case) -> dict[str, float]:
    """{part: predicted FLOPs}, and `counted` by XLA in the compiled step."""
    from seqrecipes.planning import devices

    present = devices.of_host(1)
    from seqrecipes.training import programs

    training = dataclasses.replace(_training(case), logits_tile=512)
    mesh, (span,) = training.partitioning.mesh(present), training.spans
    compiled = programs.lower(training, span, mesh).compile()
    return training.flops_by_part(span) | {"counted": compiled.cost_analysis()["flops"]}


def memory_of(case: Case) -> dict[str, float]:
    """Bytes that are predicted, and bytes that a step really takes."""
    from seqrecipes.planning import devices

    present = devices.of_host(case.devices)
    import jax
    import numpy as np

    from benchmarks import one_stage
    from seqrecipes.training import memory, programs
    from seqrecipes.training import partitioning as parts

    training = _training(case)
    mesh, (span,) = training.partitioning.mesh(present), training.spans
    predicted = memory.of_step(training, span, mesh)
    with training.partitioning.on(mesh):
        batch = parts.global_batch(
            {
                name: np.full((case.batch, length), 5, np.int32)
                for name, length in training.features.items()
            },
            case.batch,
            mesh,
        )
        # Compiled on shapes before anything is there: what the compiler takes is given back first.
        step = programs.lower(training, span, mesh).compile()
        gc.collect()
        before = _resident()
        state = one_stage.first_state(training, mesh)
        jax.block_until_ready(state)
        held = {
            "parameters": sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)),
            "moments": sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimizer)),
        }
        _forget_peak()
        jax.block_until_ready(step(state, batch))
    return {
        "predicted parameters": predicted.parameters * case.devices,
        "parameters": held["parameters"],
        "predicted moments": predicted.moments * case.devices,
        "moments": held["moments"],
        "predicted": predicted.total * case.devices,
        "taken": _peak() - before,
    }


def _status(field: str) -> int:
    """A field of this process's status, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text("ascii").split("\n"):
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _forget_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5", "ascii")


def _run(kind: str, name: str) -> dict[str, float]:
    """One case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.planning", f"--{kind}", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().split("\n")[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning",
        description="Compares predictions with XLA's counts and with a process's memory (Linux).",
    )
    parser.add_argument("--flops", choices=FLOPS, help="one case alone, as JSON")
    parser.add_argument("--memory", choices=MEMORY, help="one case alone, as JSON")
    flags = parser.parse_args(argv)
    if flags.flops:
        print(json.dumps(flops_of(FLOPS[flags.flops])))
        return 0
    if flags.memory:
        print(json.dumps(memory_of(MEMORY[flags.memory])))
        return 0
    from seqrecipes import markdown

    rows = []
    for name in FLOPS:
        figures = _run("flops", name)
        counted = figures.pop("counted")
        whole = sum(figures.values())
        parts = [f"{figures.get(part, 0) / 1e12:.3f}" for part in ("encoder", "decoder", "head")]
        rows.append(
            [name, *parts, f"{whole / 1e12:.3f}", f"{counted / 1e12:.3f}", f"{whole / counted:.3f}"]
        )
    header = ["update of one example", "encoder", "decoder", "head", "TFLOPs", "XLA", "ratio"]
    print(markdown.table(header, rows), flush=True)
    rows = []
    for name in MEMORY:
        figures = _run("memory", name)
        pairs = [("predicted parameters", "parameters"), ("predicted moments", "moments")]
        cells = [
            f"{figures[one] / MIB:,.1f} / {figures[other] / MIB:,.1f}"
            for one, other in [*pairs, ("predicted", "taken")]
        ]
        rows.append([name, *cells, f"{figures['predicted'] / figures['taken']:.2f}"])
    header = ["MiB predicted / there", "parameters", "moments", "all at the peak", "ratio"]
    print(f"\n{markdown.table(header, rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
