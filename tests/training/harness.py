"""Trains a model through phases as the runner does, on one device or on a mesh, for the tests."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import PLAIN, Loss, Partitioning
from seqrecipes.models import Model, shapes
from seqrecipes.training import partitioning as parts
from seqrecipes.training.phases import Span, spans
from seqrecipes.training.step import (
    TrainState,
    enter_phase,
    make_train_step,
    state_shardings,
)
from tests.models import tiny

FREEZE = ("encoder", "token_embedding")
# A jitted (state, batch) -> (state, metrics), which can also be lowered.
Step = Any


def fresh_state(params: tree.Tree) -> TrainState:
    """A state at step 0 that has entered no phase yet; the parameters are copied."""
    return TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params), {})


def initial(model: Model) -> dict[str, Any]:
    """NumPy parameters like fresh ones, which take seconds to compile: small, 0 or 1."""
    rng = np.random.default_rng(0)
    leaves = {}
    for path, leaf in tree.flatten(tiny.shapes(model)).items():
        if path.endswith(("scale", "bias", "fusion/query")):
            leaves[path] = np.full(leaf.shape, path.endswith("scale"), np.float32)
        else:
            leaves[path] = (0.02 * rng.standard_normal(leaf.shape)).astype(np.float32)
    return tree.unflatten(leaves)


def place(params: tree.Tree, phases: Sequence[Phase]) -> list[Span]:
    """The phases' spans for a parameter tree."""
    return spans(phases, tree.flatten(params))


def compiled_step(
    model: Model,
    adamw: AdamW,
    span: Span,
    *,
    total_steps: int,
    micro_batches: int = 1,
    tile: int = 8,
    seed: int = 1,
    minimised: Loss = PLAIN,
) -> Step:
    """The jitted update of a phase, on one device."""
    step = make_train_step(
        model,
        adamw,
        span,
        total_steps=total_steps,
        seed=seed,
        micro_batches=micro_batches,
        tile=tile,
        minimised=minimised,
    )
    return jax.jit(step, donate_argnums=0)


def leaves(state: TrainState) -> dict[str, np.ndarray]:
    """{path: parameter} copied to the host."""
    return {path: np.array(x) for path, x in tree.flatten(state.params).items()}


@jax.jit
def copied(state: TrainState) -> TrainState:
    """Arrays that a later step, which takes its state over, does not delete."""
    return jax.tree.map(jnp.copy, state)


@dataclass(frozen=True)
class Result:
    """What a run leaves: its last state, parameters at each phase's end, metrics of each step."""

    state: TrainState
    ends: list[dict[str, np.ndarray]]
    metrics: list[dict[str, float]]
    states: list[TrainState]


def run(
    model: Model,
    batch: tiny.Arrays,
    phases: Sequence[Phase],
    adamw: AdamW,
    partitioning: Partitioning,
    *,
    mesh: Any = None,
    tile: int = 8,
    start: TrainState | None = None,
    only: slice = slice(None),
) -> Result:
    """Trains on one batch, on a mesh or (None) on one device, from a state or from the beginning.

    Of the phases only those of the slice are trained; they stand in the schedule of all.
    """
    placed = place(shapes(model), phases)
    rows = len(next(iter(batch.values())))
    with contextlib.ExitStack() as stack:
        inputs = dict(batch)
        if mesh is not None:
            stack.enter_context(partitioning.on(mesh))
            parts.check_batch(rows, partitioning.micro_batches, mesh, field="batch_size")
            chosen = parts.local_rows(rows, mesh)
            inputs = parts.global_batch({k: v[chosen] for k, v in batch.items()}, rows, mesh)
        state = fresh_state(initial(model)) if start is None else copied(start)
        if mesh is not None:
            state = jax.device_put(state, state_shardings(state, partitioning, mesh))
        ends, metrics, states = [], [], []
        for span in placed[only]:
            enter = functools.partial(enter_phase, span=span, optimizer=adamw)
            layout: Any = None
            if mesh is not None:
                layout = state_shardings(jax.eval_shape(enter, state), partitioning, mesh)
            state = jax.jit(enter, out_shardings=layout)(state)
            step = jax.jit(
                make_train_step(
                    model,
                    adamw,
                    span,
                    total_steps=placed[-1].stop,
                    seed=1,
                    micro_batches=partitioning.micro_batches,
                    tile=tile,
                ),
                donate_argnums=0,
                out_shardings=None if mesh is None else (layout, parts.replicated(mesh)),
            )
            for _ in range(span.start, span.stop):
                state, values = step(state, inputs)
                metrics.append({name: float(value) for name, value in values.items()})
            ends.append(leaves(state))
            states.append(copied(state))
    return Result(state, ends, metrics, states)
