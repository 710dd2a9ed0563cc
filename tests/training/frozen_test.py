"""Frozen means frozen: no gradient, no moments, no update, and the time saved."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Partitioning
from seqrecipes.models import build
from seqrecipes.training.step import enter_phase, loss_sums, split_params
from tests.models import tiny
from tests.training import harness

CONFIG = tiny.config()
BATCH = tiny.batch(CONFIG, rows=8)
# Frozen, unfrozen, frozen again, unfrozen again.
PHASES = (Phase(3, harness.FREEZE), Phase(3), Phase(2, harness.FREEZE), Phase(2))
ADAMW = AdamW(peak=1e-2, warmup_steps=1, floor=5e-3, weight_decay=0.1)


@functools.cache
def trained() -> harness.Result:
    return harness.run(build(CONFIG), BATCH, PHASES, ADAMW, Partitioning())


@functools.cache
def snapshots() -> list[dict[str, np.ndarray]]:
    """Parameters at the start and at the end of every phase."""
    start = tree.flatten(harness.initial(build(CONFIG)))
    return [start, *trained().ends]


def is_frozen(path: str) -> bool:
    return path.split("/")[0] in harness.FREEZE


@pytest.mark.parametrize("index", range(len(PHASES)))
def test_exactly_the_frozen_parameters_are_bit_identical(index: int) -> None:
    before, after = snapshots()[index], snapshots()[index + 1]
    for path, value in before.items():
        if PHASES[index].freeze and is_frozen(path):
            np.testing.assert_array_equal(after[path], value, err_msg=path)
        elif "attention/key/bias" in path:
            # The softmax is blind to what all keys share: its gradient is rounding alone.
            continue
        else:
            assert not np.array_equal(after[path], value), path


@pytest.mark.parametrize("index", range(len(PHASES)))
def test_optimizer_holds_moments_for_the_trainable_part_alone(index: int) -> None:
    optimizer = trained().states[index].optimizer
    held = [path for adam in optimizer.values() for path in adam.mu]
    paths = snapshots()[0].keys()
    expected = [path for path in paths if not (PHASES[index].freeze and is_frozen(path))]
    assert sorted(held) == sorted(expected)
    for adam in optimizer.values():
        assert adam.mu.keys() == adam.nu.keys()


def test_counts_of_cohorts() -> None:
    counts = [
        {cohort: int(adam.count) for cohort, adam in state.optimizer.items()}
        for state in trained().states
    ]
    assert counts == [{"0": 3}, {"0": 6, "1": 3}, {"0": 8}, {"0": 10, "3": 2}]


def test_unfreezing_gives_fresh_moments_and_leaves_the_others_theirs() -> None:
    span = harness.place(trained().state.params, PHASES)[1]
    before = trained().states[0]
    entered = enter_phase(before, span, ADAMW)
    assert int(entered.optimizer["1"].count) == 0
    for leaf in jax.tree.leaves((entered.optimizer["1"].mu, entered.optimizer["1"].nu)):
        assert not np.any(leaf)
    assert any(is_frozen(path) for path in entered.optimizer["1"].mu)
    kept, old = entered.optimizer["0"], before.optimizer["0"]
    assert int(kept.count) == int(old.count) == 3
    for path in old.mu:
        np.testing.assert_array_equal(kept.mu[path], old.mu[path])
        np.testing.assert_array_equal(kept.nu[path], old.nu[path])
    assert int(entered.step) == 3
    for path, value in harness.leaves(entered).items():
        np.testing.assert_array_equal(value, snapshots()[1][path])


def test_entering_a_phase_twice_changes_nothing() -> None:
    span = harness.place(trained().state.params, PHASES)[1]
    state = trained().states[1]
    again = enter_phase(state, span, ADAMW)
    # Fails on trees of different structure, too.
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_a_phase_may_freeze_part_of_a_cohort() -> None:
    params = tree.unflatten(snapshots()[0])
    span = harness.place(params, (Phase(3, harness.FREEZE), Phase(1, ("decoder/stack",))))[1]
    entered = enter_phase(trained().states[0], span, ADAMW).optimizer
    assert not any(
        path.startswith("decoder/stack") for adam in entered.values() for path in adam.mu
    )
    assert set(entered["0"].mu) == {
        path for path in snapshots()[0] if path.startswith("decoder/embedding")
    }
    assert int(entered["0"].count) == 3


def test_first_update_after_unfreezing_has_the_size_of_the_learning_rate() -> None:
    adamw = AdamW(peak=1e-2, warmup_steps=1, floor=5e-3, weight_decay=0.0, clip_norm=0.0)
    phases = (Phase(4, harness.FREEZE), Phase(1))
    result = harness.run(build(CONFIG), BATCH, phases, adamw, Partitioning())
    rate = result.metrics[4]["learning_rate"]
    sizes = []
    for path, moment in result.state.optimizer["1"].mu.items():
        gradient = np.asarray(moment) / (1 - adamw.beta1)
        update = np.abs(result.ends[1][path] - result.ends[0][path])
        assert update.max() < rate * 1.001, path
        # Far above epsilon, Adam's first update is the learning rate times the gradient's sign.
        sizes.append(update[np.abs(gradient) > 1e-5] / rate)
    flat = np.concatenate(sizes)
    assert flat.size > 500
    np.testing.assert_allclose(flat, 1.0, rtol=2e-3)


def test_clipping_and_gradient_norm_see_the_trainable_part_alone() -> None:
    config = tiny.config()
    model = build(config)
    params = tiny.random_params(model, dtype="float32")
    adamw = AdamW(warmup_steps=0, clip_norm=1e-3, beta1=0.0)
    span = harness.place(params, (Phase(1, harness.FREEZE),))[0]
    state = enter_phase(harness.fresh_state(params), span, adamw)
    state, metrics = harness.compiled_step(model, adamw, span, total_steps=1)(state, BATCH)

    def mean_loss(p: Any) -> jax.Array:
        sums = loss_sums(model, p, BATCH, None, None, 8)
        return sums.objective / sums.tokens

    gradient = tree.flatten(jax.jit(jax.grad(mean_loss))(params))
    trainable = {path: g for path, g in gradient.items() if not is_frozen(path)}
    norm, whole = tiny.norm_of(trainable), tiny.norm_of(gradient)
    assert whole > 1.01 * norm
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    assert tiny.norm_of(state.optimizer["0"].mu) == pytest.approx(1e-3, rel=1e-4)


def cost_of_step(model: Any, params: Any, batch: tiny.Arrays, phase: Phase) -> tuple[float, int]:
    """(floating-point operations of the compiled step, bytes of the optimizer's state)."""
    span = harness.place(params, (phase,))[0]
    state = enter_phase(harness.fresh_state(params), span, ADAMW)
    step = harness.compiled_step(model, ADAMW, span, total_steps=2, tile=64)
    cost = step.lower(state, batch).compile().cost_analysis()
    return cost["flops"], sum(x.nbytes for x in jax.tree.leaves(state.optimizer))


def test_the_compiled_frozen_step_saves_the_encoders_backward_pass_and_moments() -> None:
    width, inner, layers, length, rows, vocab = 64, 256, 3, 32, 8, 100
    # The cost of a loop's body is counted once, hence no loop over layers.
    config = tiny.config(
        vocab_size=vocab,
        hidden_size=width,
        mlp_size=inner,
        num_heads=4,
        encoder_layers=layers,
        decoder_layers=1,
        max_positions=length,
        tie_head=False,
        scan_layers=False,
    )
    model, batch = build(config), tiny.batch(config, rows=rows, source=length, target=length)
    params = harness.initial(model)
    frozen_flops, frozen_bytes = cost_of_step(model, params, batch, Phase(2, harness.FREEZE))
    full_flops, full_bytes = cost_of_step(model, params, batch, Phase(2))

    # A product has two gradients, each as dear as itself: 2 x 2 operations per multiply-add.
    weights = layers * (4 * width * width + 2 * width * inner)
    scores = layers * 2 * length * width
    # Keys and values of the decoder pass a gradient on to the memory.
    memory = 2 * width * width
    saving = 4 * rows * length * (weights + scores) + 2 * rows * length * memory
    assert full_flops - frozen_flops == pytest.approx(saving, rel=0.15)

    leaves = tree.flatten(params)
    size = {
        part: sum(x.size for path, x in leaves.items() if is_frozen(path) == part)
        for part in (True, False)
    }
    # Two float32 moments a parameter, one int32 count.
    assert frozen_bytes == 8 * size[False] + 4
    assert full_bytes == 8 * (size[True] + size[False]) + 4


def test_split_params_partitions_the_tree() -> None:
    params = tree.unflatten(snapshots()[0])
    trainable, frozen = split_params(params, harness.place(params, PHASES)[0])
    assert trainable.keys() | frozen.keys() == snapshots()[0].keys()
    assert not trainable.keys() & frozen.keys()
    assert all(is_frozen(path) for path in frozen)
    assert not any(is_frozen(path) for path in trainable)
