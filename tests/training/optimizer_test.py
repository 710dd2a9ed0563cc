"""AdamW against an independent NumPy implementation, and the schedule's values."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW, Optimizer
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import build
from seqrecipes.training import optimizer
from seqrecipes.training.step import enter_phase
from tests.models import tiny
from tests.training import harness

SHAPES = {"layer/kernel": (3, 4), "layer/bias": (4,), "norm/scale": (4,), "table/embedding": (5, 2)}
DECAYED = {"layer/kernel", "table/embedding"}
# The table joins two steps later than the rest.
LATE = {path: 1 if path.startswith("table") else 0 for path in SHAPES}


def update(
    ours: Optimizer, gradients: Any, state: Any, params: Any, cohorts: Any, rate: float
) -> tuple[dict[str, jax.Array], Any, jax.Array]:
    """One update of those of the parameters that are in a cohort."""
    cohorts = {name: cohorts[name] for name in params}
    return optimizer.update(ours, gradients, state, params, cohorts, jnp.asarray(rate))


def rates(adamw: Optimizer, total: int, steps: list[int]) -> list[float]:
    schedule = optimizer.schedule(adamw, total)
    return [float(schedule(t)) for t in steps]


def test_schedule_of_the_paper() -> None:
    adamw, total, warmup = AdamW(), 350_000, 5_000
    middle = (warmup + total) // 2
    values = rates(adamw, total, [0, warmup // 2, warmup, middle, total])
    expected = [0.0, 0.75e-4, 1.5e-4, (1.5e-4 + 5e-6) / 2, 5e-6]
    assert values == pytest.approx(expected, rel=1e-5, abs=1e-12)
    # float32 leaves the first of 5000 steps this much.
    assert rates(adamw, total, [1]) == pytest.approx([1.5e-4 / 5000], rel=1e-3)
    # At the unfreezing: 5e-6 + 1.45e-4 * 150k / 345k.
    assert rates(adamw, total, [200_000]) == pytest.approx([6.8043e-5], rel=1e-4)


def test_schedule_is_continuous_at_the_peak_and_stays_at_the_floor() -> None:
    adamw = AdamW(peak=1.0, warmup_steps=4, floor=0.25)
    assert rates(adamw, 10, [3, 4, 5, 10, 11]) == pytest.approx([0.75, 1.0, 0.875, 0.25, 0.25])


def test_schedule_without_warm_up_starts_at_the_peak() -> None:
    adamw = AdamW(peak=1.0, warmup_steps=0, floor=0.0)
    assert rates(adamw, 4, [0, 1, 4]) == pytest.approx([1.0, 0.75, 0.0])


def test_schedules_of_fine_tuning() -> None:
    """Soltan et al. 2023, Table 10: t = 0, 1, W, half-way down, T."""
    linear = AdamW(peak=3e-5, warmup_steps=1_000, floor=0.0)
    expected = [0.0, 3e-8, 3e-5, 1.5e-5, 0.0]
    found = rates(linear, 9_000, [0, 1, 1_000, 5_000, 9_000])
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-12)
    exponential = dataclasses.replace(
        linear, peak=5e-6, floor=1e-7, warmup="exponential", start=1e-7
    )
    # The peak is 50 times the start: in half the warm-up the square root of that.
    expected = [1e-7, 1e-7 * 50**0.001, 1e-7 * 50**0.5, 5e-6, 2.55e-6, 1e-7]
    found = rates(exponential, 50_000, [0, 1, 500, 1_000, 25_500, 50_000])
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_exponential_warm_up_multiplies_by_the_same_factor() -> None:
    adamw = AdamW(peak=8.0, warmup_steps=3, floor=2.0, warmup="exponential", start=1.0)
    assert rates(adamw, 5, [0, 1, 2, 3, 4, 5]) == pytest.approx([1.0, 2.0, 4.0, 8.0, 5.0, 2.0])


def test_a_linear_warm_up_may_start_above_zero() -> None:
    adamw = AdamW(peak=1.0, warmup_steps=4, floor=0.0, start=0.2)
    assert rates(adamw, 8, [0, 1, 2, 4]) == pytest.approx([0.2, 0.4, 0.6, 1.0])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"warmup": "exponential"}, "AdamW.start"),
        ({"warmup": "exponential", "start": 1.0}, "AdamW.start"),
        ({"start": -1e-7}, "AdamW.start"),
        ({"warmup": "quadratic"}, "AdamW.warmup"),
    ],
)
def test_warm_ups_that_cannot_be_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        AdamW(**fields)
    assert caught.value.field == field


def test_step_uses_one_schedule_for_all_phases_and_counts_from_one() -> None:
    config = tiny.config(decoder_layers=0, encoder_layers=1)
    adamw = AdamW(peak=4e-3, warmup_steps=2, floor=1e-3)
    phases = (Phase(3, ("encoder",)), Phase(2))
    result = harness.run(build(config), tiny.batch(config), phases, adamw, Partitioning())
    learned = [metrics["learning_rate"] for metrics in result.metrics]
    assert learned == pytest.approx([2e-3, 4e-3, 3e-3, 2e-3, 1e-3])


def numpy_adamw(
    adamw: AdamW,
    params: dict[str, np.ndarray],
    gradients: list[dict[str, np.ndarray]],
    rate: float,
    joins: dict[str, int],
    factors: dict[str, float],
) -> tuple[dict[str, np.ndarray], list[float]]:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with clipping.

    A path trains from step `joins` on, at `factors` times the rate (their eta, which multiplies the
    decay, too).
    """
    params = {path: value.copy() for path, value in params.items()}
    first = {path: np.zeros_like(value) for path, value in params.items()}
    second = {path: np.zeros_like(value) for path, value in params.items()}
    counts, norms = dict.fromkeys(params, 0), []
    for step, step_gradients in enumerate(gradients):
        active = [path for path in params if joins[path] <= step]
        norm = np.sqrt(sum((step_gradients[path] ** 2).sum() for path in active))
        norms.append(norm)
        factor = 1.0
        if adamw.clip_norm and norm > adamw.clip_norm:
            factor = adamw.clip_norm / norm
        for path in active:
            g = step_gradients[path] * factor
            counts[path] += 1
            first[path] = adamw.beta1 * first[path] + (1 - adamw.beta1) * g
            second[path] = adamw.beta2 * second[path] + (1 - adamw.beta2) * g * g
            m = first[path] / (1 - adamw.beta1 ** counts[path])
            v = second[path] / (1 - adamw.beta2 ** counts[path])
            decay = adamw.weight_decay * params[path] if path in DECAYED else 0.0
            eta = rate * factors.get(path, 1.0)
            params[path] = params[path] - eta * (m / (np.sqrt(v) + adamw.epsilon) + decay)
    return params, norms


# The first match wins; norm/scale matches none.
MULTIPLIERS = (("layer/kernel", 0.1), ("layer", 0.5), ("table", 3))
FACTORS = {"layer/kernel": 0.1, "layer/bias": 0.5, "norm/scale": 1.0, "table/embedding": 3.0}


@pytest.mark.parametrize(
    ("clip_norm", "multipliers", "factors"),
    [(0.0, (), {}), (1.0, (), {}), (100.0, (), {}), (1.0, MULTIPLIERS, FACTORS)],
)
def test_updates_equal_numpy(
    clip_norm: float, multipliers: tuple[tuple[str, float], ...], factors: dict[str, float]
) -> None:
    adamw = AdamW(clip_norm=clip_norm, weight_decay=0.3, epsilon=1e-3, multipliers=multipliers)
    rng = np.random.default_rng(0)
    start = {path: rng.standard_normal(shape) for path, shape in SHAPES.items()}
    gradients = [
        {path: rng.standard_normal(shape) for path, shape in SHAPES.items()} for _ in range(5)
    ]
    joins = {path: 2 * cohort for path, cohort in LATE.items()}
    expected, norms = numpy_adamw(adamw, start, gradients, 0.05, joins, factors)
    with jax.enable_x64(True):
        params = {path: jnp.asarray(value) for path, value in start.items()}
        state: Any = {}
        for step, step_gradients in enumerate(gradients):
            active = {path: params[path] for path in params if joins[path] <= step}
            if step in (0, 2):
                cohorts = LATE if step else dict.fromkeys(active, 0)
                state = optimizer.init(adamw, active, cohorts, state)
            chosen = {path: jnp.asarray(step_gradients[path]) for path in active}
            new, state, norm = update(adamw, chosen, state, active, cohorts, 0.05)
            params |= new
            assert float(norm) == pytest.approx(norms[step], rel=1e-12)
        for path, value in expected.items():
            np.testing.assert_allclose(params[path], value, rtol=0, atol=1e-12, err_msg=path)


def test_a_gradient_of_zero_moves_by_the_decay_alone() -> None:
    adamw = AdamW(weight_decay=0.5)
    params = {path: jnp.ones(shape) for path, shape in SHAPES.items()}
    state = optimizer.init(adamw, params, dict.fromkeys(SHAPES, 0), {})
    zeros = {path: jnp.zeros(shape) for path, shape in SHAPES.items()}
    new, _, norm = update(adamw, zeros, state, params, dict.fromkeys(SHAPES, 0), 0.1)
    assert float(norm) == 0.0
    for path, value in new.items():
        expected = 0.95 if path in DECAYED else 1.0
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=path)


def test_every_parameter_of_a_model_decays_or_not_by_its_kind() -> None:
    for layers in (0, 1):
        shapes = tree.flatten(tiny.shapes(build(tiny.config(decoder_layers=layers))))
        decays = tree.first_match(AdamW().decay_rules, shapes, field="decay_rules")
        for path, decay in decays.items():
            assert decay == path.endswith(("kernel", "embedding")), path


def test_a_decay_rule_for_nothing_else_is_refused() -> None:
    adamw = AdamW(decay_rules=(("layer", True),))
    params = {path: jnp.ones(shape) for path, shape in SHAPES.items()}
    state = optimizer.init(adamw, params, dict.fromkeys(SHAPES, 0), {})
    with pytest.raises(UserError, match="norm/scale"):
        update(adamw, params, state, params, dict.fromkeys(SHAPES, 0), 0.1)


@functools.cache
def first_step(*multipliers: tuple[str, float]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{path: before and after one update} of an encoder whose token table is frozen."""
    config = tiny.config(encoder_layers=1, decoder_layers=0, tie_head=False)
    adamw = AdamW(peak=1e-2, warmup_steps=0, floor=0.0, multipliers=multipliers)
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model, dtype="float32")
    (span,) = harness.place(params, (Phase(1, ("token_embedding",)),))
    state = enter_phase(harness.fresh_state(params), span, adamw)
    # At half of the schedule.
    state = state.replace(step=jnp.asarray(1, jnp.int32))
    state, _ = harness.compiled_step(model, adamw, span, total_steps=4)(state, batch)
    after = harness.leaves(state)
    return {path: (before, after[path]) for path, before in tree.flatten(params).items()}


def test_a_factor_of_one_is_no_factor_to_the_bit() -> None:
    with_one = first_step(("encoder", 1.0), ("mlm_head/.*/kernel", 1))
    for path, (_, expected) in first_step().items():
        np.testing.assert_array_equal(with_one[path][1], expected, err_msg=path)


def test_a_factor_scales_the_update_of_what_it_matches_alone() -> None:
    # What is frozen may have a factor for later.
    scaled = first_step(("encoder", 0.25), ("token_embedding", 0.25))
    for path, (before, without) in first_step().items():
        if path.startswith("encoder"):
            np.testing.assert_allclose(
                scaled[path][1] - before, (without - before) / 4, atol=5e-7, err_msg=path
            )
        else:
            np.testing.assert_array_equal(scaled[path][1], without, err_msg=path)
    before, without = first_step()["encoder/stack/layers/mlp/input/kernel"]
    assert np.abs(without - before).max() > 4e-3


@pytest.mark.parametrize(
    ("pattern", "words"), [("encodr", "matches no parameter"), ("(encoder", "not a regular")]
)
def test_a_multiplier_for_nothing_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        first_step(("encoder", 0.5), (pattern, 0.1))
    assert (caught.value.field, caught.value.value) == ("AdamW.multipliers", pattern)


@pytest.mark.parametrize(
    "multipliers",
    [
        "encoder",
        ("encoder", 0.1),
        [("encoder", 0.1), ("decoder",)],
        [(0.1, "encoder")],
        [("encoder", "0.1")],
        [("encoder", 0.0)],
        [("encoder", -1)],
        [("encoder", float("inf"))],
        [("encoder", float("nan"))],
    ],
)
def test_multipliers_are_pairs_with_factors_above_zero(multipliers: Any) -> None:
    with pytest.raises(UserError, match=r"write a list of pairs") as caught:
        AdamW(multipliers=multipliers)
    assert caught.value.field == "AdamW.multipliers"
    assert caught.value.value == multipliers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peak", 0.0),
        ("peak", 1e-6),
        ("warmup_steps", -1),
        ("floor", -1e-6),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("epsilon", -1e-8),
        ("weight_decay", -0.1),
        ("clip_norm", -1.0),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(UserError) as caught:
        AdamW(**settings)
    assert caught.value.field == f"AdamW.{field}"
    assert caught.value.value == value


def test_a_warm_up_longer_than_the_stage_is_refused() -> None:
    with pytest.raises(UserError, match="less than the stage's 5000 steps"):
        optimizer.schedule(AdamW(warmup_steps=5000), 5000)


def test_rules_see_the_path_of_a_slice() -> None:
    adamw = AdamW(weight_decay=0.1, multipliers=[("a/(kernel|bias)$", 0.5)])
    leaves = {name: jnp.ones((2, 3)) for name in ("a/kernel[0:2]", "a/bias[0:2]", "b/kernel")}
    zeros = jax.tree.map(jnp.zeros_like, leaves)
    state = optimizer.init(adamw, leaves, dict.fromkeys(leaves, 0), {})
    updated, _, _ = update(adamw, zeros, state, leaves, dict.fromkeys(leaves, 0), 0.1)
    # Decay alone: the rate 0.1, times 0.5 by the multiplier, times 0.1; none on a bias.
    for name, expected in {"a/kernel[0:2]": 0.995, "a/bias[0:2]": 1.0, "b/kernel": 0.99}.items():
        np.testing.assert_allclose(updated[name], expected, rtol=1e-6, err_msg=name)
