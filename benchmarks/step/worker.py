"""The process that measures one program on one case: a `Job` in JSON in, one line of JSON out.

With the word `device` it only says what JAX runs on.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Sequence

from benchmarks.step import programs
from benchmarks.step.cases import Job
from benchmarks.step.programs import COMPILED, OURS, T5X, Program

# Width of the product that says what a device can do, where no maker says it.
_WIDTH, _ACCELERATOR_WIDTH = 2048, 8192


def measure(job: Job, began: float) -> dict[str, object]:
    """Everything about a job: times in seconds, memory in bytes, rates in operations a second."""
    program = _build(job)
    for update in range(max(1, job.warmup)):
        handle = program.step()
        program.wait(handle)
        if update == 0:
            # Of everything: a compiler may work on more than this update.
            first_loss, first = program.loss(handle), time.time() - began
    faults = _page_faults()
    seconds, handle = programs.timed(program, job.steps)
    faults = _page_faults() - faults
    last_loss = program.loss(handle)
    if not math.isfinite(last_loss):
        raise FloatingPointError(f"{job.program}: the loss is {last_loss}")
    memory = program.device_memory()
    result: dict[str, object] = {
        "seconds": seconds,
        "first": first,
        "losses": [first_loss, last_loss],
        "faults": faults / (job.steps + 2),
        "memory": _peak_of_process() if memory is None else memory,
        "parameters": program.parameters,
        "trained": program.trained,
        "device": program.device,
        "remark": program.remark,
    }
    width = _WIDTH if program.device == "cpu" else _ACCELERATOR_WIDTH
    result["product"] = programs.rate(program.product(width), width)
    # The last import: a peer's memory is its own.
    return result | {"flops": _flops(job)}


def _build(job: Job) -> Program:
    if job.program == OURS:
        from benchmarks.step import ours

        return ours.program(job)
    if job.program == T5X:
        from benchmarks.step import t5x_peer

        return t5x_peer.program(job)
    from benchmarks.step import torch_peer

    return torch_peer.program(job, compiled=job.program == COMPILED)


def _flops(job: Job) -> dict[str, float]:
    import dataclasses

    if "jax" not in sys.modules:
        import jax

        # It only counts, and a GPU may be full.
        jax.config.update("jax_platforms", "cpu")
    from benchmarks.step import ours

    if job.program == T5X:
        # Three matrices in a gated feed-forward, two in ours.
        wide = job.model | {"mlp_size": job.model["mlp_size"] * 3 // 2}
        job = dataclasses.replace(job, model=wide)
    return ours.flops(job)


def _page_faults() -> int:
    """Pages that this process was given so far without a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _peak_of_process() -> int:
    """Most memory that this process ever had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    began = time.time()
    if arguments[0] == "device":
        from benchmarks.step import ours

        print(json.dumps(ours.device()))
        return 0
    print(json.dumps(measure(Job.from_json(arguments[0]), began)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
