"""What a compiled update contains: no logits of all positions, nothing for what is frozen."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.training import optimizer, programs
from seqrecipes.training import partitioning as parts
from seqrecipes.training.step import TrainState, enter_phase, loss_sums
from tests.models import tiny
from tests.training import stages
from tests.training.stages import FROZEN, MLM, ROWS, SEQ2SEQ, TARGET, TILE, UNFROZEN, VOCABULARY

KINDS, PHASES = (MLM, SEQ2SEQ), (FROZEN, UNFROZEN)
TILES_LOGITS = ROWS * TILE * VOCABULARY
# Matrix products outweigh all else. XLA counts the body of a loop once, hence none.
WIDE = (
    ("hidden_size", 128),
    ("mlp_size", 1024),
    ("encoder_layers", 1),
    ("decoder_layers", 1),
    ("scan_layers", False),
)


def wide(phase: int) -> Any:
    return stages.compiled(SEQ2SEQ, phase, tile=TARGET, **dict(WIDE))


def largest(compiled: Any) -> int:
    return max(array.size for array in programs.arrays(compiled.as_text()))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_never_exist_for_two_tiles_at_once(kind: str, phase: int) -> None:
    assert largest(stages.compiled(kind, phase)) < 2 * TILES_LOGITS


def test_one_tile_of_the_whole_length_is_seen() -> None:
    arrays = programs.arrays(wide(UNFROZEN).as_text())
    sizes = {array.size for array in arrays if array.shape[-1:] == (VOCABULARY,)}
    assert ROWS * TARGET * VOCABULARY in sizes


def test_memory_grows_with_the_table_and_not_with_all_logits() -> None:
    small, large = (
        stages.compiled(SEQ2SEQ, FROZEN, **settings).memory_analysis().temp_size_in_bytes
        for settings in ({}, {"vocab_size": 4 * VOCABULARY})
    )
    # For each id: a tile's logits, their gradient and copies of the head's row. Logits of all
    # positions and their gradient would add two numbers for each position.
    assert (large - small) / (4 * 3 * VOCABULARY) < 2 * ROWS * TARGET


def test_frozen_and_unfrozen_cost_what_the_arithmetic_says() -> None:
    training = stages.stage(SEQ2SEQ, tile=TARGET, **dict(WIDE))
    counted, predicted = (
        [cost(phase) for phase in PHASES]
        for cost in (
            lambda phase: wide(phase).cost_analysis()["flops"],
            lambda phase: training.flops_per_step(training.spans[phase]),
        )
    )
    assert counted[FROZEN] / counted[UNFROZEN] == pytest.approx(
        predicted[FROZEN] / predicted[UNFROZEN], rel=0.03
    )
    assert counted[UNFROZEN] == pytest.approx(predicted[UNFROZEN], rel=0.1)


def equations(jaxpr: Any) -> Iterator[Any]:
    """All of a traced program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def update_in_bfloat16(kind: str, **overrides: Any) -> list[Any]:
    """The equations of loss and gradients of a bfloat16 model."""
    training = stages.stage(kind, dtype="bfloat16", **overrides)
    batch = {name: jnp.ones((ROWS, n), jnp.int32) for name, n in training.features.items()}

    def loss(params: Any) -> Any:
        key, rows = jax.random.key(0), jnp.arange(ROWS)
        return loss_sums(training.model, params, batch, rows, key, TILE).objective

    return list(equations(jax.make_jaxpr(jax.grad(loss))(training.shapes).jaxpr))


@pytest.mark.parametrize(
    ("kind", "fusion"), [(MLM, "none"), (SEQ2SEQ, "none"), (SEQ2SEQ, "decoder_states")]
)
def test_a_bfloat16_model_multiplies_bfloat16_matrices_alone(kind: str, fusion: str) -> None:
    # A float32 operand makes a float32 product, at a fraction of an accelerator's rate.
    traced = update_in_bfloat16(kind, attention_fusion=fusion)
    found = [each for each in traced if each.primitive.name == "dot_general"]
    assert len(found) > (36 if kind == SEQ2SEQ else 18)
    types = {tuple(str(x.aval.dtype) for x in equation.invars) for equation in found}
    assert types == {("bfloat16", "bfloat16")}


@pytest.mark.parametrize("fusion", ["none", "shared", "per_layer", "decoder_states"])
@pytest.mark.parametrize("tie_head", [True, False])
def test_a_bfloat16_model_sums_nothing_in_bfloat16(fusion: str, tie_head: bool) -> None:
    # A sum in bfloat16 over many tokens stops growing: gradients of tables, positions and biases.
    kind = MLM if fusion == "none" else SEQ2SEQ
    settings = {"attention_fusion": fusion, "tie_head": tie_head, "dropout": 0.1}
    traced = update_in_bfloat16(kind, **settings)
    sums = [e for e in traced if e.primitive.name in ("scatter-add", "reduce_sum", "cumsum")]
    assert len(sums) > 10 and any(each.primitive.name == "scatter-add" for each in sums)
    found = {(str(out.aval.dtype), out.aval.shape) for each in sums for out in each.outvars}
    # Masked positions are distinct: what goes back to their states is put there, not summed.
    found -= {("bfloat16", (ROWS, stages.SOURCE, 32))} if kind == MLM else set()
    assert {dtype for dtype, _ in found} <= {"float32", "int32"}


def backward_parts(compiled: Any) -> set[str]:
    """Top-level modules of which the program has operations of the backward pass."""
    names = re.findall(r'op_name="([^"]*transpose\(jvp[^"]*)"', compiled.as_text())
    known = ("token_embedding", "encoder", "decoder", "mlm_head")
    return {part for name in names for part in known if part in name.split("/")}


def test_nothing_of_a_frozen_encoders_backward_pass_exists() -> None:
    assert backward_parts(stages.compiled(MLM, FROZEN)) == {"mlm_head"}
    assert backward_parts(stages.compiled(SEQ2SEQ, FROZEN)) == {"decoder"}
    assert backward_parts(stages.compiled(MLM, UNFROZEN)) >= {"encoder", "mlm_head"}
    assert backward_parts(stages.compiled(SEQ2SEQ, UNFROZEN)) >= {"encoder", "decoder"}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_updated_in_place_and_has_no_moment_of_what_is_frozen(
    kind: str, phase: int
) -> None:
    sizes = {path: leaf.size for path, leaf in tree.flatten(stages.stage(kind).shapes).items()}
    trained = stages.trained(kind, phase)
    cohorts = phase + 1
    # Parameters, two moments of what trains, a step for all and for each cohort: four bytes each.
    state = 4 * (sum(sizes.values()) + 2 * sum(sizes[path] for path in trained) + 1 + cohorts)
    batch = 4 * ROWS * sum(stages.FEATURES[kind].values())
    memory = stages.compiled(kind, phase).memory_analysis()
    assert memory.alias_size_in_bytes == state
    assert memory.argument_size_in_bytes == state + batch


FOREIGN = re.compile(r"callback|\b(infeed|outfeed|send|recv)\(")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_is_never_called(kind: str, phase: int) -> None:
    assert not FOREIGN.search(stages.compiled(kind, phase).as_text())


def test_a_call_of_the_host_is_seen() -> None:
    def printing(x: jax.Array) -> jax.Array:
        jax.debug.print("{}", x)
        return x + 1

    assert FOREIGN.search(jax.jit(printing).lower(1.0).compile().as_text())


def test_all_steps_of_a_phase_are_one_program() -> None:
    training = stages.stage(MLM)
    mesh = training.partitioning.mesh(jax.devices()[:1])
    span = training.spans[FROZEN]
    with training.partitioning.on(mesh):
        zero = jax.device_put(jnp.zeros((), jnp.int32), parts.replicated(mesh))
        state = TrainState(zero, training.random_params(mesh), {})
        enter = functools.partial(enter_phase, span=span, optimizer=training.optimizer)
        state = jax.jit(enter, out_shardings=training.layout(span, mesh), donate_argnums=0)(state)
        update = training.compile_step(span, mesh)
        rows = []
        for seed in range(3):
            batch = tiny.batch(training.model.config, ROWS, source=stages.SOURCE, seed=seed)
            batch = {
                name: np.resize(x, (ROWS, stages.FEATURES[MLM][name])) for name, x in batch.items()
            }
            state, metrics = update(state, parts.global_batch(batch, ROWS, mesh))
            rows.append({name: float(value) for name, value in metrics.items()})
    assert update._cache_size() == 1
    schedule = optimizer.schedule(training.optimizer, training.steps)
    expected = [float(schedule(step)) for step in (1, 2, 3)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert len({*expected}) == len({row["loss"] for row in rows}) == 3
    assert int(state.step) == 3
