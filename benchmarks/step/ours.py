"""Our own step: the one that `seqrecipes.train` compiles for a phase."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.step.cases import Job, synthetic
from benchmarks.step.programs import Program
from seqrecipes import models, tree
from seqrecipes.models import ModelConfig
from seqrecipes.training import partitioning as parts
from seqrecipes.training.checkpoints import Checkpointing
from seqrecipes.training.loop import Training
from seqrecipes.training.optimizer import AdamW
from seqrecipes.training.partitioning import Partitioning
from seqrecipes.training.phases import ENCODER, Phase
from seqrecipes.training.step import TrainState, enter_phase

# The recipes' own (`Recipe.logits_tile`), which cannot be read without gin.
_LOGITS_TILE = 128
# Any schedule will do; it has to be longer than a run.
_STEPS, _WARMUP = 10_000, 100


def training(job: Job) -> Training:
    """The stage of one phase that a job is about."""
    config = ModelConfig.from_dict(job.model, field="model")
    return Training(
        name="benchmark",
        model=models.build(config),
        features=job.features,
        phases=[Phase(_STEPS, ENCODER if job.frozen else ())],
        optimizer=AdamW(warmup_steps=_WARMUP),
        partitioning=Partitioning(),
        checkpointing=Checkpointing(),
        batch_size=job.batch,
        tokens_per_update=job.tokens,
        seed=0,
        logits_tile=_LOGITS_TILE,
        log_every=1,
        validate_every=1,
    )


def program(job: Job) -> Program:
    """The phase entered, on one device."""
    stage = training(job)
    mesh, (span,) = stage.partitioning.mesh(jax.devices()[:1]), stage.spans
    with stage.partitioning.on(mesh):
        batch = parts.global_batch(synthetic(job), job.batch, mesh)
        zero = jax.device_put(jnp.zeros((), jnp.int32), parts.replicated(mesh))
        state = TrainState(zero, stage.random_params(mesh), {})
        enter = functools.partial(enter_phase, span=span, adamw=stage.optimizer)
        state = jax.jit(enter, out_shardings=stage.layout(span, mesh), donate_argnums=0)(state)
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
