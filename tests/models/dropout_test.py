"""Dropout: rate, scale, what its masks depend on, how random they are, what they cost."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes import models
from seqrecipes.config.training import Partitioning
from seqrecipes.models import dropout
from seqrecipes.models.dropout import Dropout
from seqrecipes.models.keys import key
from tests.models import tiny

DEVICES = 8


def pcg3d(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The first word of the published hash, in 64 bits cut to 32."""
    cut = np.uint64(2**32 - 1)
    x, y, z = (
        (v.astype(np.uint64) * np.uint64(1664525) + np.uint64(1013904223)) & cut for v in (x, y, z)
    )
    for shift in (True, False):
        x = (x + ((y * z) & cut)) & cut
        y = (y + ((z * x) & cut)) & cut
        z = (z + ((x * y) & cut)) & cut
        if shift:
            x, y, z = (v ^ (v >> np.uint64(16)) for v in (x, y, z))
    return x.astype(np.uint32)


def drop(rate: float, x: Any, ids: Any, seed: int = 0) -> np.ndarray:
    key = jax.random.key(seed)
    return np.asarray(Dropout(rate).apply({}, x, ids, rngs={"dropout": key}))


def test_dropout_rate_and_scale() -> None:
    output = drop(0.3, jnp.ones((64, 32, 64)), jnp.arange(64))
    kept = output != 0
    np.testing.assert_allclose(output[kept], 1 / 0.7, rtol=1e-6)
    deviation = np.sqrt(0.3 * 0.7 / output.size)
    assert abs(kept.mean() - 0.7) < 5 * deviation
    # No position is dropped more often than chance allows.
    assert np.abs(kept.mean(axis=0) - 0.7).max() < 6 * np.sqrt(0.3 * 0.7 / 64)


def test_masks_are_the_same_with_64_bit_types() -> None:
    """Tests of exact equality compute in float64."""
    x = np.ones((3, 5), np.float32)
    expected = drop(0.5, x, np.arange(3))
    assert not expected.all()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(drop(0.5, x, np.arange(3)), expected)


def test_dropout_follows_examples_not_rows() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4, 8)), jnp.float32)
    order = np.array([3, 0, 5, 1, 4, 2])
    expected = drop(0.5, x, jnp.arange(6))
    np.testing.assert_array_equal(drop(0.5, x[order], jnp.asarray(order)), expected[order])
    np.testing.assert_array_equal(drop(0.5, x[2:4], jnp.arange(2, 4)), expected[2:4])
    masks = expected != 0
    for one in range(6):
        for two in range(one):
            assert np.any(masks[one] != masks[two])


def test_dropout_differs_between_keys() -> None:
    x = jnp.ones((2, 4, 8))
    assert np.any(drop(0.5, x, jnp.arange(2)) != drop(0.5, x, jnp.arange(2), seed=1))


@pytest.mark.parametrize(("rate", "ids"), [(0.5, None), (0.0, np.arange(2))])
def test_dropout_is_the_identity_without_examples_or_rate(rate: float, ids: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, ids), x)


def seeds(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, (count, 2), dtype=np.uint32)


def test_words_are_those_of_the_published_hash() -> None:
    shape, pairs = (3, 5, 7), seeds(4)
    numbers = np.arange(3 * 5 * 7).reshape(1, *shape)
    y, z = (pairs[:, i].reshape(-1, 1, 1, 1) for i in range(2))
    np.testing.assert_array_equal(
        dropout.words(jnp.asarray(pairs), shape), pcg3d(*np.broadcast_arrays(numbers, y, z))
    )


# Seeds as a generator gives them, and the simplest ones, which a poor hash would betray.
SEEDS = {"random": seeds(16), "small": np.array([[a, b] for a in range(4) for b in range(4)])}


@pytest.mark.parametrize("kind", SEEDS)
def test_words_are_spread_like_random_ones(kind: str) -> None:
    length = 2**14
    found = np.asarray(dropout.words(jnp.asarray(SEEDS[kind], jnp.uint32), (length,)))

    def statistic(counts: np.ndarray) -> float:
        """Chi-square of counts that are expected to be alike, in standard deviations."""
        expected = counts.sum() / counts.size
        degrees = counts.size - 1
        return float(((counts - expected) ** 2 / expected).sum() - degrees) / (2 * degrees) ** 0.5

    high = (found >> 26).astype(int)
    assert abs(statistic(np.bincount(high.ravel(), minlength=64))) < 5
    # Pairs: neighbours, elements a row apart, and the same element of two examples.
    for one, other in [
        (high[:, :-1], high[:, 1:]),
        (high[:, :-512], high[:, 512:]),
        (high[:-1], high[1:]),
    ]:
        assert abs(statistic(np.bincount((64 * one + other).ravel(), minlength=4096))) < 5
    # Each bit that matters is set half of the time, whatever its neighbour's is.
    bits = (found[..., None] >> np.arange(8, 32, dtype=np.uint32)) & 1
    bound = 5 * 0.5 / np.sqrt(found.size)
    assert np.abs(bits.mean(axis=(0, 1)) - 0.5).max() < bound
    assert np.abs((bits[:, 1:] ^ bits[:, :-1]).mean(axis=(0, 1)) - 0.5).max() < bound


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_hold_the_rate_in_rows_columns_and_runs(rate: float) -> None:
    masks = np.asarray(dropout.drop(rate, jnp.ones((8, 64, 512)), jnp.asarray(seeds(8)))) == 0
    deviation = np.sqrt(rate * (1 - rate))
    for axes in ((1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        means = masks.mean(axis=axes)
        count = masks.size / means.size
        scores = (means - rate) / (deviation / np.sqrt(count))
        # Their spread is that of independent draws, and none stands out.
        if scores.size > 1:
            assert abs(scores.std() - 1) < 6 / np.sqrt(2 * scores.size)
        assert np.abs(scores).max() < 6
    for shift in (1, 2, 64, 512):
        flat = masks.reshape(8, -1)
        together = (flat[:, shift:] & flat[:, :-shift]).mean()
        spread = rate * np.sqrt(1 - rate**2) / np.sqrt(flat.size)
        assert abs(together - rate**2) < 5 * spread


def test_the_gradient_passes_where_the_value_did() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 16)), jnp.float32)
    pairs = jnp.asarray(seeds(2))
    value, pull = jax.vjp(lambda x: dropout.drop(0.4, x, pairs), x)
    (gradient,) = pull(jnp.ones_like(x))
    np.testing.assert_array_equal(
        np.asarray(gradient), np.where(value != 0, np.float32(1 / 0.6), 0)
    )


def test_a_mesh_changes_no_mask() -> None:
    x, pairs = jnp.ones((4, 6, 8)), jnp.asarray(seeds(4))
    expected = dropout.drop(0.3, x, pairs)
    mesh = Partitioning(data=2, tensor=2).mesh(jax.devices()[:4])
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "tensor")))
    np.testing.assert_array_equal(
        jax.jit(dropout.drop, static_argnums=0)(0.3, spread, pairs), expected
    )


def test_no_mask_and_no_random_word_is_kept_in_memory() -> None:
    shape = (2, 4, 64, 64)

    def loss(x: Any, ids: Any, key: Any) -> Any:
        return jnp.sum(jnp.sin(Dropout(0.1).apply({}, jnp.cos(x), ids, rngs={"dropout": key})))

    arguments = jnp.ones(shape), jnp.arange(2), jax.random.key(0)
    compiled = jax.jit(jax.grad(loss)).lower(*arguments).compile()
    whole = r"(?:pred|u8|u32|s32)\[2,4,64,64\]"
    # Inside a fusion an array is a register; outside of one it is memory.
    entry = compiled.as_text().split("ENTRY")[1]
    assert re.search(r"f32\[2,4,64,64\]", entry)
    assert not re.search(whole, entry)


def test_one_program_drops_anew_with_every_key() -> None:
    program = jax.jit(
        lambda x, key: Dropout(0.5).apply({}, x, jnp.arange(2), rngs={"dropout": key})
    )
    x = jnp.ones((2, 8, 8))
    first, second, again = (np.asarray(program(x, jax.random.key(seed))) for seed in (0, 1, 0))
    assert program._cache_size() == 1
    assert np.any(first != second)
    np.testing.assert_array_equal(first, again)


def test_what_is_kept_in_bfloat16_is_scaled_by_the_exact_factor() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 64, 64)), jnp.bfloat16)
    value = np.asarray(drop(0.1, x, jnp.arange(4)))
    # Half of the last place of eight bits; a factor rounded to bfloat16 is off by 0.18% throughout.
    kept, exact = value != 0, np.asarray(x, np.float64) / 0.9
    ratio = value[kept].astype(np.float64) / exact[kept]
    assert np.abs(ratio - 1).max() <= 2**-8
    assert abs(ratio.mean() - 1) < 2e-4


def test_jax_s_default_generator_changes_no_mask_and_no_parameter() -> None:
    model, x = models.build(tiny.config(decoder_layers=0)), jnp.ones((2, 4, 4))

    def numbers() -> list[Any]:
        leaves = jax.tree.leaves(jax.jit(lambda: models.random_params(model, 3))())
        return [*leaves, Dropout(0.5).apply({}, x, jnp.arange(2), rngs={"dropout": key(1)})]

    expected = numbers()
    with jax.default_prng_impl("rbg"):
        for ours, theirs in zip(numbers(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
