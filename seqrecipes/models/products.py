"""Matrix products of the compute type whose results are summed and kept in a wider one."""

from __future__ import annotations

import functools

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
