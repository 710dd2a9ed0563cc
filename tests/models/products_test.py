"""Products in the wide type: their values, and gradients rounded once to the compute type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.models.products import wide_product

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
