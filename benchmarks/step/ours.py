"""Our own step: the one that `seqrecipes.train` compiles for a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import one_stage
from benchmarks.step.cases import Job, synthetic
from benchmarks.step.programs import Program
from seqrecipes import tree
from seqrecipes.models import ModelConfig
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.phases import ENCODER


def training(job: Job) -> Training:
    """The stage of one phase that a job is about."""
    return one_stage.stage(
        ModelConfig.from_dict(job.model, field="model"),
        job.features,
        job.batch,
        tokens=job.length,
        freeze=ENCODER if job.frozen else (),
    )


def program(job: Job) -> Program:
    """The phase entered, on one device."""
    stage = training(job)
    mesh, (span,) = stage.partitioning.mesh(jax.devices()[:1]), stage.spans
    batch = parts.global_batch(synthetic(job), job.batch, mesh)
    state = one_stage.first_state(stage, mesh)
    sizes = {path: leaf.size for path, leaf in tree.flatten(state.params).items()}
    update = stage.compile_step(span, mesh)

    def step() -> Any:
        nonlocal state
        with stage.partitioning.on(mesh):
            state, metrics = update(state, batch)
        return metrics["loss"]

    config = stage.model.config
    return Program(
        step=step,
        wait=jax.device_get,
        loss=lambda handle: float(jax.device_get(handle)),
        parameters=sum(sizes.values()),
        trained=sum(sizes[path] for path in span.cohorts),
        device=device(),
        product=product,
        device_memory=device_memory,
        remark=f"{config.dtype}, {'a loop over' if config.scan_layers else 'unrolled'} layers",
    )


def flops(job: Job) -> dict[str, float]:
    """{part: model FLOPs of an update}."""
    stage = training(job)
    return stage.flops_by_part(stage.spans[0])


def device() -> str:
    """What JAX calls the device, 'cpu' for processors."""
    return jax.devices()[0].device_kind


def device_memory() -> int | None:
    """Most bytes in use on the accelerator so far."""
    statistics = jax.devices()[0].memory_stats()
    return statistics["peak_bytes_in_use"] if statistics else None


def product(width: int) -> Callable[[], None]:
    """See `Program.product`."""
    on_cpu = jax.default_backend() == "cpu"
    x = jnp.ones((width, width), jnp.float32 if on_cpu else jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(x, x))
