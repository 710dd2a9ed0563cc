"""Operations of the compute type whose sums are made and kept in a wider one.

Where many tokens meet, a sum in bfloat16 stops growing at 256 times a summand. All sums over tokens
are therefore made in float32 at least: those of matrix products by the hardware, the others here.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def wide(dtype: jnp.dtype) -> jnp.dtype:
    """The type in which products of this one are summed: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def wide_product(subscripts: str, a: Array, b: Array) -> Array:
    """jnp.einsum of two arrays of one type, in the wide type.

    Left to JAX, the backward pass of a bfloat16 product would multiply a float32 gradient, at a
    fraction of an accelerator's rate. Here the gradient is rounded to the type of a and b first, as
    that of every other product of the model is.

    Args:
      subscripts: 'x,y->z', where each letter stands in two of the three and none twice in one.
      a: first operand.
      b: second operand.
    """
    if wide(a.dtype) == a.dtype:
        return jnp.einsum(subscripts, a, b)
    return _narrow(subscripts, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _narrow(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=wide(a.dtype))


def _forward(subscripts: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _narrow(subscripts, a, b), (a, b)


def _backward(
    subscripts: str, operands: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    a, b = operands
    gradient = gradient.astype(a.dtype)
    inputs, of_result = subscripts.split("->")
    of_a, of_b = inputs.split(",")
    return (
        jnp.einsum(f"{of_result},{of_b}->{of_a}", gradient, b),
        jnp.einsum(f"{of_result},{of_a}->{of_b}", gradient, a),
    )


_narrow.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rows(table_VxD: Array, ids: Array, dtype: Any) -> Array:
    """Rows [..., D] of a table in the compute type; gradients are summed in the table's own type.

    Args:
      table_VxD: float32 parameters with the logical axes (vocab, embed).
      ids: integers below V.
      dtype: of the result.
    """
    return whole_rows(table_VxD.astype(dtype))[ids]


def _rows_forward(table_VxD: Array, ids: Array, dtype: Any) -> tuple[Array, tuple[Array, Array]]:
    return rows(table_VxD, ids, dtype), (table_VxD, ids)


def _rows_backward(dtype: Any, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    table_VxD, ids = kept
    zeros = jnp.zeros_like(table_VxD)
    return whole_rows(zeros.at[ids].add(gradient.astype(table_VxD.dtype))), None


rows.defvjp(_rows_forward, _rows_backward)


def whole_rows(table_VxD: Array) -> Array:
    """The table, whole along D on every device."""
    return nn.with_logical_constraint(table_VxD, ("vocab", "hidden"))


def scaled(x: Array, factor: float) -> Array:
    """x times a number that is not rounded to the type of x before."""
    return (x.astype(wide(x.dtype)) * factor).astype(x.dtype)
