"""Measures one case in a process that has as many devices as the case wants, and prints JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from benchmarks.scale import cases
from benchmarks.scale.cases import Case

_DEVICES = "--xla_force_host_platform_device_count"


def cost(case: Case, steps: int) -> dict[str, float]:
    """What an update takes: seconds (the median), FLOPs counted by XLA and by us, bytes.

    Bytes are those of the arguments, with the state, and of scratch space, over all devices.
    """
    import jax
    import numpy as np

    from benchmarks import one_stage
    from seqrecipes.training import partitioning as parts
    from seqrecipes.training import programs

    training = cases.training(case, scan_layers=False)
    (span,) = training.spans
    mesh = training.partitioning.mesh(jax.devices()[: case.devices])
    step = programs.lower(training, span, mesh).compile()
    memory = step.memory_analysis()
    random = np.random.default_rng(0)
    arrays = {
        # No id of padding among them.
        name: random.integers(0, case.length, (case.batch, length))
        if name == "masked_positions"
        else random.integers(4, case.vocabulary, (case.batch, length))
        for name, length in training.features.items()
    }
    with training.partitioning.on(mesh):
        batch = parts.global_batch(
            {name: x.astype(np.int32) for name, x in arrays.items()}, case.batch, mesh
        )
        state = one_stage.first_state(training, mesh)
        seconds = []
        for _ in range(steps + 1):
            began = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
    counted = cases.training(
        dataclasses.replace(case, devices=1, partitioning={}), scan_layers=False, whole=True
    )
    one = counted.partitioning.mesh(jax.devices()[:1])
    return {
        # The first one warms up.
        "seconds": statistics.median(seconds[1:]),
        "counted_flops": programs.lower(counted, span, one).cost_analysis()["flops"],
        "model_flops": training.flops_per_step(span),
        "bytes": case.devices * (memory.argument_size_in_bytes + memory.temp_size_in_bytes),
    }


def traffic(case: Case) -> dict[str, float]:
    """{kind of collective: bytes of results on each device in an update}; compiled, not run.

    `gradients` are the bytes of all that trains: what is to be summed at least, where devices
    split the batch alone.
    """
    import jax

    from seqrecipes import tree
    from seqrecipes.training import programs

    training = cases.training(case, scan_layers=True)
    (span,) = training.spans
    mesh = training.partitioning.mesh(jax.devices()[: case.devices])
    compiled = programs.lower(training, span, mesh).compile()
    leaves = tree.flatten(training.shapes)
    found: dict[str, float] = {"gradients": 4 * sum(leaves[name].size for name in span.cohorts)}
    for each in programs.collectives(compiled.as_text()):
        found[each.kind] = found.get(each.kind, 0) + each.nbytes
    return found


def run(case: Case, steps: int | None) -> dict[str, float]:
    """`cost`, or `traffic` if `steps` is None, in a process of its own."""
    described = json.dumps(dataclasses.asdict(case))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale.worker", described, json.dumps(steps)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(os.environ, case.devices),
    )
    return json.loads(done.stdout.strip().split("\n")[-1])


def _environment(given: Mapping[str, str], devices: int) -> dict[str, str]:
    flags = [f for f in given.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICES)]
    return dict(given) | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"{_DEVICES}={devices}"]),
    }


if __name__ == "__main__":
    CASE, STEPS = Case(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
    print(json.dumps(traffic(CASE) if STEPS is None else cost(CASE, STEPS)))
