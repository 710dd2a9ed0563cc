"""Products in the wide type: their values, and gradients rounded once to the compute type."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.models.encoder import Embedder
from seqrecipes.models.layers import Dense, DenseGeneral
from seqrecipes.models.products import rows, scaled, wide_product
from tests.models import tiny

SUBSCRIPTS = ["bthk,bshk->bhts", "btx,vx->btv", "gbtv,gbtd->gvd"]
SIZES = {"b": 2, "t": 5, "s": 4, "h": 2, "k": 3, "x": 6, "v": 7, "g": 2, "d": 3}


def operands(subscripts: str, dtype: Any) -> tuple[Any, Any, Any]:
    """Two operands, and a gradient of their product in the wide type."""
    rng = np.random.default_rng(0)
    a, b, c = (
        rng.standard_normal([SIZES[letter] for letter in term])
        for term in subscripts.replace("->", ",").split(",")
    )
    return jnp.asarray(a, dtype), jnp.asarray(b, dtype), jnp.asarray(c)


@pytest.mark.parametrize("subscripts", SUBSCRIPTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_values_and_gradients_are_those_of_the_products_of_wide_operands(
    subscripts: str, dtype: str
) -> None:
    with jax.enable_x64(True):
        a, b, gradient = operands(subscripts, dtype)
        exact = [np.asarray(x, np.float64) for x in (a, b)]
        value, pull = jax.vjp(lambda a, b: wide_product(subscripts, a, b), a, b)
        gradients = pull(gradient.astype(value.dtype))
        expected, pull_exact = jax.vjp(lambda a, b: jnp.einsum(subscripts, a, b), *exact)
        of_exact = pull_exact(gradient)
    assert value.dtype == ("float64" if dtype == "float64" else "float32")
    assert [x.dtype for x in gradients] == [a.dtype, b.dtype]
    sums = 4e-6 if dtype != "float64" else 1e-13
    np.testing.assert_allclose(value, expected, rtol=0, atol=sums)
    # The incoming gradient and the result are rounded, each by half of a unit in the last place.
    rounding = 2**-7 if dtype == "bfloat16" else 0
    for ours, theirs in zip(gradients, of_exact, strict=True):
        bound = rounding * np.abs(theirs).max() + sums
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=0, atol=bound)


TOKENS = (64, 1024)  # rows, positions: 65,536 tokens
BFLOAT16 = {"dtype": "bfloat16", "max_positions": 1024, "hidden_size": 8, "embedding_norm": False}
MODULES: dict[str, tuple[nn.Module, Any]] = {
    "bias": (Dense(8, dtype="bfloat16"), ()),
    "biases": (DenseGeneral((2, 4), dtype="bfloat16"), ()),
    "position": (Embedder(tiny.config(**BFLOAT16)), (None,)),
}


def gradients_of_tokens(mean: float) -> Any:
    """What 65,536 tokens send back, in bfloat16: [64, 1024, 8]."""
    noise = np.random.default_rng(0).normal(mean, 1.0, (*TOKENS, 8))
    return jnp.asarray(noise, jnp.bfloat16)


@pytest.mark.parametrize("mean", [0.5, 0.0])
@pytest.mark.parametrize("name", MODULES)
def test_what_all_tokens_share_sums_their_gradients_as_float64_does(name: str, mean: float) -> None:
    module, others = MODULES[name]
    x, sent = jnp.ones((*TOKENS, 8), jnp.bfloat16), gradients_of_tokens(mean)
    variables = jax.jit(lambda: module.init(jax.random.key(0), x[:1], *others))()

    def pull(variables: Any) -> Any:
        result: Any = module.apply(variables, x, *others)
        assert result.dtype == "bfloat16"
        return jnp.sum(result.reshape(sent.shape).astype("float32") * sent.astype("float32"))

    gradients = tree.flatten(jax.jit(jax.grad(pull))(variables)["params"])
    found = gradients["position/embedding" if name == "position" else "bias"]
    axes = (0,) if name == "position" else (0, 1)
    exact = np.asarray(sent, np.float64).sum(axes).reshape(found.shape)
    assert np.abs(found - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("mean", [0.5, 0.0])
def test_a_tables_rows_sum_the_gradients_of_their_uses_as_float64_does(mean: float) -> None:
    # As a frequent piece: an eighth of all tokens.
    sent, rng = gradients_of_tokens(mean), np.random.default_rng(1)
    ids = np.where(rng.random(TOKENS) < 0.125, 0, rng.integers(1, 200, TOKENS))
    table = jnp.ones((200, 8))

    @jax.jit
    def gradient(sent: Any, ids: Any) -> Any:
        value, pull = jax.vjp(lambda table: rows(table, ids, "bfloat16"), table)
        assert value.dtype == "bfloat16"
        return pull(sent)[0]

    whole = np.asarray(gradient(sent, ids))
    exact = np.zeros(table.shape)
    np.add.at(exact, ids, np.asarray(sent, np.float64))
    assert np.abs(whole[0] - exact[0]).max() < 1e-5 * np.abs(exact[0]).max()
    np.testing.assert_allclose(whole, exact, atol=1e-5 * np.abs(exact).max())
    # Micro-batches and devices add up parts of the batch.
    parts = [np.asarray(gradient(sent[i : i + 16], ids[i : i + 16])) for i in range(0, 64, 16)]
    np.testing.assert_allclose(sum(parts), whole, atol=1e-5 * np.abs(exact).max())


def test_a_factor_is_not_rounded_to_the_type_of_what_it_multiplies() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal(10_000), jnp.bfloat16)
    exact = np.asarray(x, np.float64) / 0.9
    np.testing.assert_array_equal(scaled(x, 1 / 0.9), jnp.asarray(exact, jnp.bfloat16))
