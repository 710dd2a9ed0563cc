"""Implementations of attention: one result, who may attend to whom, refusals, and what is chosen.

The TPU kernel runs in Pallas's interpreter. cuDNN's is compiled for no GPU here: its calls are read
in the program that XLA would get.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models.attention import attend
from seqrecipes.models.encoder import real_lengths
from seqrecipes.models.layers import Dropout
from tests.models import tiny

DEVICES = 8

HEADS, SIZE = 2, 16
# (targets, lengths of the sources, causal); the sources' static length is the first of them.
CASES = [(130, (150, 37), False), (140, None, True), (96, None, False)]


def operands(targets: int, sources: int, rows: int = 2, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(0)
    shapes = [(rows, length, HEADS, SIZE) for length in (targets, sources, sources)]
    return tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)


def run(implementation: str, lengths: Any, causal: bool, seen: Any = 1.0, drop: Any = None) -> Any:
    """(query, key, value) -> (output, gradients of a function of its rows where `seen`)."""

    def both(*qkv: Any) -> Any:
        def value(*qkv: Any) -> Any:
            mixed = attend(
                *qkv, lengths_B=lengths, causal=causal, implementation=implementation, drop=drop
            )
            return jnp.sum(jnp.sin(mixed.astype(jnp.float32)) * seen), mixed

        gradients, mixed = jax.grad(value, argnums=(0, 1, 2), has_aux=True)(*qkv)
        return mixed, gradients

    return both


def plain(query: Any, key: Any, value: Any, allowed: np.ndarray) -> np.ndarray:
    """Pair by pair, in float64; `allowed` is [B, T, S]."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    output = np.zeros(query.shape)
    for b, t, h in np.ndindex(query.shape[:3]):
        chosen = np.flatnonzero(allowed[b, t])
        powers = np.exp(key[b, chosen, h] @ query[b, t, h])
        output[b, t, h] = powers / powers.sum() @ value[b, chosen, h]
    return output


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [None, (9, 4)])
def test_plain_attention_is_that_of_the_pairs_allowed(causal: bool, lengths: Any) -> None:
    qkv = operands(9, 9)
    allowed = np.ones((2, 9, 9), bool)
    if lengths:
        allowed &= np.arange(9) < np.array(lengths)[:, None, None]
    if causal:
        allowed &= np.arange(9) <= np.arange(9)[:, None]
    given = None if lengths is None else jnp.asarray(lengths)
    found, _ = run("xla", given, causal)(*qkv)
    np.testing.assert_allclose(found, plain(*qkv, allowed), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize(("targets", "lengths", "causal"), CASES)
def test_the_tpu_kernel_is_plain_attention(targets: int, lengths: Any, causal: bool) -> None:
    qkv = operands(targets, lengths[0] if lengths else targets)
    given = None if lengths is None else jnp.asarray(lengths)
    found, gradients = jax.jit(run("tpu", given, causal))(*qkv)
    expected, true_gradients = jax.jit(run("xla", given, causal))(*qkv)
    # Sums of about a hundred terms up to 10 in float32, in another order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for one, other in zip(gradients, true_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize("implementation", ["xla", "tpu"])
def test_padding_gives_and_gets_exactly_nothing(implementation: str) -> None:
    lengths, real_targets = jnp.asarray([150, 37]), np.array([130, 80])
    seen = (np.arange(130) < real_targets[:, None])[:, :, None, None].astype(np.float32)
    query, key, value = operands(130, 150)
    padding = np.arange(150) >= np.asarray(lengths)[:, None]
    both = jax.jit(run(implementation, lengths, False, seen))
    mixed, (of_query, of_key, of_value) = both(query, key, value)
    other = [jnp.where(padding[:, :, None, None], 50.0, x) for x in (key, value)]
    again, other_gradients = both(query, *other)
    np.testing.assert_array_equal(mixed, again)
    for one, two in zip((of_query, of_key, of_value), other_gradients, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.asarray(of_key)[padding].any()
    assert not np.asarray(of_value)[padding].any()
    assert not np.asarray(of_query)[seen[:, :, 0, 0] == 0].any()
    # Queries of padding have no part in what keys learn.
    elsewhere = jnp.where(seen == 0, 3.0, query)
    for one, two in zip((of_key, of_value), both(elsewhere, key, value)[1][1:], strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.usefixtures("on_tpu")
@pytest.mark.parametrize("implementation", ["xla", "tpu"])
def test_a_row_of_padding_alone_is_finite_and_leaves_the_others_alone(implementation: str) -> None:
    qkv = operands(20, 30)
    seen = np.array([1.0, 0.0]).reshape(2, 1, 1, 1)
    with_empty = run(implementation, jnp.asarray([30, 0]), False, seen)(*qkv)
    without = run(implementation, jnp.asarray([30, 30]), False, seen)(*qkv)
    for one, other in zip(jax.tree.leaves(with_empty), jax.tree.leaves(without), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.usefixtures("on_tpu")
def test_the_tpu_kernel_on_a_mesh_stays_where_its_examples_and_heads_are() -> None:
    partitioning = Partitioning(data=2, tensor=2)
    mesh = partitioning.mesh(jax.devices()[:4])
    qkv, lengths = operands(24, 40, rows=4), jnp.asarray([40, 7, 22, 31])
    expected = jax.jit(run("xla", lengths, False))(*qkv)
    with partitioning.on(mesh):
        spec = jax.sharding.PartitionSpec("data", None, "tensor")
        placed = [jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in qkv]
        compiled = jax.jit(run("tpu", lengths, False)).lower(*placed).compile()
        found = compiled(*placed)
    assert not re.search(r"all-gather|all-to-all|collective-permute", compiled.as_text())
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert not one.sharding.is_fully_replicated
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def calls(lowered: Any) -> list[tuple[str, str]]:
    """(target, mask) of cuDNN's calls in a program, in order."""
    return re.findall(r"@(__cudnn\$\w+).*?mask_type\\22: \\22(\w+)", lowered.as_text())


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("size", "lengths", "causal", "mask"),
    [
        (10, (9, 4), False, "PADDING"),
        (10, None, True, "CAUSAL"),
        (10, None, False, "NO_MASK"),
        # It takes no odd lengths in training; what makes them even must not be attended to.
        (9, None, False, "PADDING"),
        (9, None, True, "CAUSAL"),
    ],
)
def test_cudnn_gets_lengths_and_neither_bias_nor_dropout(
    size: int, lengths: Any, causal: bool, mask: str
) -> None:
    qkv = operands(size, size, dtype=jnp.bfloat16)
    given = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    traced = jax.jit(run("cudnn", given, causal)).trace(*qkv)
    found = calls(traced.lower(lowering_platforms=("cuda",)))
    # These two targets are those without bias and without dropout.
    assert found == [("__cudnn$fmhaSoftmax", mask), ("__cudnn$fmhaSoftmaxBackward", mask)]


@pytest.mark.usefixtures("on_tpu")
def test_a_kernel_that_drops_nothing_takes_no_dropout() -> None:
    with pytest.raises(UserError, match="does not drop attention weights"):
        run("tpu", None, False, drop=lambda x: x)(*operands(8, 8))


def test_one_executable_drops_other_weights_at_every_step_and_for_every_example() -> None:
    """A seed inside the executable would drop the same ones for ever."""
    # Keys alike and values of one give the sum of the weights that are left, over 16 and 0.5.
    query = jnp.zeros((2, 6, 1, 4))
    value = jnp.eye(4)[jnp.arange(16) % 4][None, :, None, :].repeat(2, axis=0)
    traces = []

    @jax.jit
    def step(number: Any) -> Any:
        traces.append(number)
        key = jax.random.fold_in(jax.random.key(0), number)

        def drop(weights: Any) -> Any:
            return Dropout(0.5).apply({}, weights, jnp.arange(2), rngs={"dropout": key})

        return attend(
            query,
            jnp.zeros((2, 16, 1, 4)),
            value,
            lengths_B=None,
            causal=False,
            implementation="auto",
            drop=drop,
        )

    first, again, second = (np.asarray(step(number)) for number in (0, 0, 1))
    assert len(traces) == 1
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second)
    assert np.any(first[0] != first[1])
    # Every weight that is left counts twice: multiples of 2 / 16.
    np.testing.assert_array_equal(first * 8, np.round(first * 8))


def test_lengths_count_what_is_no_padding() -> None:
    tokens = np.array([[5, 6, 7], [5, tiny.PAD, tiny.PAD], [tiny.PAD] * 3])
    np.testing.assert_array_equal(real_lengths(jnp.asarray(tokens), tiny.PAD), [3, 1, 0])
