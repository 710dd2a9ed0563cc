"""Summed cross-entropy: by hand, in tiles, and without a buffer for all logits."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.errors import UserError
from seqrecipes.training.loss import PLAIN, Loss, cross_entropy, tiled_cross_entropy

PAD = 1


def test_sums_by_hand() -> None:
    # Probabilities 1/2, 1/4, 1/4 and 1/10, 8/10, 1/10.
    one, two = np.log([2.0, 1.0, 1.0]), np.log([1.0, 8.0, 1.0])
    logits = jnp.asarray([[one, two, one], [two, two, one]], jnp.float32)
    targets = jnp.asarray([[0, 2, PAD], [0, PAD, 2]])
    sums = cross_entropy(logits, targets, PAD)
    expected = math.log(2) + math.log(10) + math.log(10) + math.log(4)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-6)
    assert float(sums.tokens) == 4.0
    assert float(sums.correct) == 1.0


def test_large_logits_stay_finite() -> None:
    logits = jnp.asarray([[[1e4, 0.0, 0.0], [0.0, 0.0, -1e4]]], jnp.float32)
    sums = cross_entropy(logits, jnp.asarray([[2, 2]]), PAD)
    assert float(sums.loss) == pytest.approx(1e4 + 1e4 + math.log(2), rel=1e-6)


def test_a_batch_of_padding_sums_to_zero() -> None:
    sums = cross_entropy(jnp.ones((2, 3, 5)), jnp.full((2, 3), PAD), PAD)
    assert [float(x) for x in sums] == [0.0, 0.0, 0.0, 0.0]


LOSSES = [PLAIN, Loss(label_smoothing=0.1), Loss(z_loss=1e-2), Loss(0.3, 0.1)]


@pytest.mark.parametrize("minimised", LOSSES)
@pytest.mark.parametrize("length", [1, 7, 8])
@pytest.mark.parametrize("tile", [1, 3, 8, 100])
def test_tiles_change_neither_value_nor_gradient(length: int, tile: int, minimised: Loss) -> None:
    rng = np.random.default_rng(length)
    hidden, table = rng.standard_normal((3, length, 4)), rng.standard_normal((9, 4))
    targets: Any = rng.integers(0, 9, (3, length))
    targets[0, 0] = 5

    def loss(h: Any, w: Any, size: int | None) -> Any:
        def project(x: Any) -> Any:
            return x @ w.T

        if size is None:
            sums = cross_entropy(project(h), targets, PAD, minimised)
        else:
            sums = tiled_cross_entropy(
                project, h, targets, pad_id=PAD, tile=size, minimised=minimised
            )
        return sums.objective, sums

    with jax.enable_x64(True):
        gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
        (_, expected), expected_gradients = gradient(hidden, table, None)
        (_, sums), gradients = gradient(hidden, table, tile)
    # The oracle in NumPy, for the value.
    logits = hidden @ table.T
    log_total = np.log(np.exp(logits).sum(-1, keepdims=True))
    log_p = logits - log_total
    real = targets != PAD
    # The targets as a distribution: all but the smoothed share on the one, the rest on the others.
    share = minimised.label_smoothing
    wanted = np.where(np.arange(9) == targets[..., None], 1 - share, share / 8)
    objective = minimised.z_loss * log_total[..., 0] ** 2 - (wanted * log_p).sum(-1)
    assert float(sums.objective) == pytest.approx(objective[real].sum(), rel=1e-12)
    by_hand = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][real].sum()
    assert float(expected.loss) == pytest.approx(by_hand, rel=1e-12)
    assert float(sums.loss) == pytest.approx(by_hand, rel=1e-12)
    assert float(sums.tokens) == real.sum()
    assert float(sums.correct) == (logits.argmax(-1) == targets)[real].sum()
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


def largest_buffer(hlo: str) -> int:
    """Elements of the largest array that a compiled program names."""
    dims = re.findall(r"\b(?:f32|f64|bf16|pred|s32|u32)\[([\d,]+)\]", hlo)
    return max(math.prod(map(int, d.split(","))) for d in dims)


def test_logits_never_exist_for_all_tokens_at_once() -> None:
    batch, length, width, vocab, tile = 4, 64, 8, 512, 8
    targets: Any = np.random.default_rng(0).integers(4, vocab, (batch, length))

    def loss(h: Any, w: Any, size: int) -> Any:
        return tiled_cross_entropy(lambda x: x @ w.T, h, targets, pad_id=PAD, tile=size).loss

    shapes = (
        jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
    )

    @functools.cache
    def compiled(size: int) -> Any:
        return (
            jax.jit(jax.grad(functools.partial(loss, size=size), (0, 1))).lower(*shapes).compile()
        )

    whole, part = batch * length * vocab, batch * tile * vocab
    # The measure sees the buffer where there is one.
    assert largest_buffer(compiled(length).as_text()) >= whole
    assert largest_buffer(compiled(tile).as_text()) <= part
    # Moreover some copies of one tile and of the inputs, in bytes.
    assert compiled(tile).memory_analysis().temp_size_in_bytes < 4 * whole / 2


def test_nothing_added_is_the_cross_entropy_itself() -> None:
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 7)), jnp.float32)
    sums = cross_entropy(logits, jnp.asarray([[2, 3, 4], [5, 6, PAD]]), PAD)
    assert float(sums.objective) == float(sums.loss)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"label_smoothing": 1.0}, "Loss.label_smoothing"),
        ({"label_smoothing": -0.1}, "Loss.label_smoothing"),
        ({"z_loss": -1e-4}, "Loss.z_loss"),
    ],
)
def test_impossible_settings_are_refused_by_name(values: dict[str, float], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Loss(**values)
    assert caught.value.field == field
