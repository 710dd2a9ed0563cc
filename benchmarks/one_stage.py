"""A stage of one phase, as `seqrecipes.train` would compile it, and the state it begins with.

Imports JAX: processes that still have to choose their devices import it late.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from seqrecipes import models
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.models import ModelConfig
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.step import TrainState, enter_phase

# The recipes' own (`Recipe.logits_tile`), which cannot be read without gin.
LOGITS_TILE = 128
# Any schedule will do; it has to be longer than a run.
_STEPS, _WARMUP = 10_000, 100


def stage(
    config: ModelConfig,
    features: Mapping[str, int],
    batch: int,
    *,
    tokens: int,
    freeze: Sequence[str] = (),
    partitioning: Partitioning | None = None,
    logits_tile: int = LOGITS_TILE,
) -> Training:
    """A model trained on batches of some size; `tokens` are those of an example's original text."""
    return Training(
        name="benchmark",
        model=models.build(config),
        features=features,
        phases=[Phase(_STEPS, freeze)],
        optimizer=AdamW(warmup_steps=_WARMUP),
        partitioning=partitioning or Partitioning(),
        checkpointing=Checkpointing(),
        batch_size=batch,
        tokens_per_update=batch * tokens,
        seed=0,
        logits_tile=logits_tile,
        log_every=1,
        validate_every=1,
    )


def first_state(training: Training, mesh: Mesh) -> TrainState:
    """Random parameters on the mesh, the phase entered."""
    (span,) = training.spans
    with training.partitioning.on(mesh):
        zero = jax.device_put(np.zeros((), np.int32), parts.replicated(mesh))
        state = TrainState(zero, training.random_params(mesh), {})
        enter = functools.partial(enter_phase, span=span, optimizer=training.optimizer)
        layout = training.layout(span, mesh)
        return jax.jit(enter, out_shardings=layout, donate_argnums=0)(state)
