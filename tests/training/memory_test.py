"""Memory of a compiled update against arrays that are really there; the search for what fits."""

from __future__ import annotations

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import pytest

from seqrecipes import models
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.training import memory
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.step import TrainState, enter_phase, split_params
from tests.models import tiny

DEVICES = 8

FROZEN = ("encoder", "token_embedding")
BELOW = ("encoder/embedding", "token_embedding")
FEATURES = {"encoder_input_tokens": 12, "decoder_input_tokens": 16, "decoder_target_tokens": 16}


def training(**partitioning) -> Training:
    sizes = {"hidden_size": 32, "mlp_size": 64, "vocab_size": 64}
    config = tiny.config(encoder_layers=2, decoder_layers=1, tie_head=False, **sizes)
    return Training(
        name="stage",
        model=models.build(config),
        features=FEATURES,
        phases=[Phase(5, FROZEN), Phase(5, BELOW, frozen_encoder_layers=1), Phase(5)],
        optimizer=AdamW(warmup_steps=2),
        partitioning=Partitioning(**partitioning),
        checkpointing=Checkpointing(),
        batch_size=48,
        tokens_per_update=48 * 16,
        seed=0,
        logits_tile=8,
        log_every=1,
        validate_every=1,
    )


def bytes_of(tree) -> int:
    """Bytes that the first device holds of a tree of arrays."""
    first = jax.devices()[0]
    shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == first)


@pytest.fixture
def uncompiled(monkeypatch):
    """No program is compiled for what follows from shapes and shardings."""
    names = ("argument", "output", "alias", "temp", "generated_code")
    stats = types.SimpleNamespace(**{f"{name}_size_in_bytes": 0 for name in names})
    compiled = types.SimpleNamespace(memory_analysis=lambda: stats)
    lowered = types.SimpleNamespace(compile=lambda: compiled)
    monkeypatch.setattr(memory.programs, "lower", lambda *_: lowered)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "axes", [{"data": 8}, {"data": 8, "zero1": False}, {"fsdp": 2, "tensor": 2}]
)
def test_known_kinds_are_what_real_arrays_take(axes):
    stage = training(**axes)
    mesh = stage.partitioning.mesh()
    for span in stage.spans[:2]:
        needed = memory.of_step(stage, span, mesh)
        with stage.partitioning.on(mesh):
            state = TrainState(jnp.zeros((), jnp.int32), stage.random_params(mesh), {})
            enter = functools.partial(enter_phase, span=span, optimizer=stage.optimizer)
            state = jax.jit(enter, out_shardings=stage.layout(span, mesh))(state)
        assert needed.parameters == bytes_of(state.params)
        assert needed.moments == bytes_of(state.optimizer)
        trained, _ = jax.jit(functools.partial(split_params, span=span))(state.params)
        assert needed.gradients == bytes_of(trained)


@pytest.mark.usefixtures("uncompiled")
def test_logits_are_those_of_one_tile_and_their_gradient():
    stage = training(data=4, tensor=2, micro_batches=3)
    mesh = stage.partitioning.mesh()
    assert memory.micro_batch(stage, stage.spans[2], mesh) == 4
    needed = memory.of_step(stage, stage.spans[2], mesh)
    assert needed.logits == 2 * 4 * (4 * 8 * 64 // 2)


def test_the_total_is_what_the_program_takes():
    stage = training(data=8)
    mesh = stage.partitioning.mesh()
    span = stage.spans[2]
    with stage.partitioning.on(mesh):
        rows = parts.batch_sharding(mesh)
        batch = {
            name: jax.ShapeDtypeStruct((48, length), jnp.int32, sharding=rows)
            for name, length in FEATURES.items()
        }
        state = stage.abstract_state(span, mesh)
        stats = stage.compile_step(span, mesh).lower(state, batch).compile().memory_analysis()
    # The state is donated: of what comes out only metrics and pointers need room.
    taken = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    pointers = 32 * len(jax.tree.leaves(state))
    needed = memory.of_step(stage, span, mesh)
    assert taken <= needed.total < taken + pointers
    assert needed.activations > 0


def test_more_examples_at_one_time_take_more():
    stage = training(data=1)
    mesh, last = stage.partitioning.mesh(jax.devices()[:1]), stage.spans[2]
    few, many = (
        memory.of_step(memory.with_micro_batch(stage, last, mesh, size), last, mesh)
        for size in (2, 16)
    )
    assert many.logits == 8 * few.logits
    assert many.activations > 2 * few.activations
    assert (many.parameters, many.moments) == (few.parameters, few.moments)


@pytest.mark.parametrize("given", [1, 6, 48])
@pytest.mark.parametrize("refused_above", [48, 20])
@pytest.mark.parametrize(
    ("needs", "most_tries"),
    [
        (lambda n: 100 + 7 * n, 4),
        (lambda n: 100 + 7 * n + (40 if n < 48 else 0), 5),
        (lambda n: 90 + n * n, 10),
    ],
)
def test_the_search_finds_what_trying_everything_finds(
    monkeypatch, needs, most_tries, refused_above, given
):
    stage = training(data=1)
    mesh = stage.partitioning.mesh(jax.devices()[:1])
    tried = []

    def of_step(candidate, span, mesh):
        tried.append(size := memory.micro_batch(candidate, span, mesh))
        if size > refused_above:
            raise memory.TooLarge("Used 2G of 1G hbm")
        return memory.Memory(0, 0, 0, 0, needs(size))

    monkeypatch.setattr(memory, "of_step", of_step)
    known = {given: needs(given) if given <= refused_above else None}
    for limit in (0, 106, 107, 150, 250, 400, 3000):
        tried.clear()
        largest = memory.largest_micro_batch(stage, stage.spans[2], mesh, limit, known)
        sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]
        fitting = [size for size in sizes if size <= refused_above and needs(size) <= limit]
        assert largest == max(fitting, default=0)
        assert given not in tried
        assert len(set(tried)) == len(tried) <= most_tries


def test_a_compiler_that_refuses_says_how_much_it_wanted(monkeypatch):
    stage = training(data=1)
    mesh = stage.partitioning.mesh(jax.devices()[:1])

    def refuse(self, *_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory. Used 18.35G of 15.75G hbm. Exceeded by 2.6G."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(memory.TooLarge, match=r"^Used 18\.35G of 15\.75G hbm$"):
        memory.of_step(stage, stage.spans[0], mesh)
    assert memory.largest_micro_batch(stage, stage.spans[0], mesh, 10**12, {48: None}) == 0


def test_other_errors_of_the_compiler_are_not_taken_for_too_little_memory(monkeypatch):
    stage = training(data=1)
    mesh = stage.partitioning.mesh(jax.devices()[:1])

    def fail(self, *_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="broken"):
        memory.of_step(stage, stage.spans[0], mesh)


def test_another_micro_batch_changes_nothing_else():
    stage = training(data=4, fsdp=2, micro_batches=2)
    mesh = stage.partitioning.mesh()
    other = memory.with_micro_batch(stage, stage.spans[1], mesh, 2)
    assert [other.micro_batches(span) for span in other.spans] == [2, 3, 2]
    assert dataclasses.replace(other, phases=stage.phases) == stage


def test_a_phase_with_micro_batches_of_its_own_is_measured_with_them():
    stage = training(data=4, micro_batches=2, fsdp=2)
    phases = [dataclasses.replace(stage.phases[0], micro_batches=1), *stage.phases[1:]]
    own = dataclasses.replace(stage, phases=phases)
    mesh = stage.partitioning.mesh()
    assert [memory.micro_batch(own, span, mesh) for span in own.spans] == [6, 3, 3]
    ours, theirs = (memory.of_step(each, each.spans[0], mesh) for each in (own, stage))
    assert ours.logits == 2 * theirs.logits
    assert ours.activations > theirs.activations
