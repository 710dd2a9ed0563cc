"""Dropout whose masks cost next to nothing: made where they are used, and never stored.

JAX's generators write random bits to memory, a word for each element of every attention matrix. A
hash of the element's number, keyed by a few of those bits, is arithmetic that XLA fuses with the
multiplication by the mask, and the backward pass makes the mask again.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqrecipes.models.products import scaled

Array = jax.Array

_WORD = np.uint32


class Dropout(nn.Module):
    """Dropout whose mask is a function of (step key, module, example), not of the batch's layout.

    Every example draws from a key of its own. Splitting a batch into micro-batches or spreading it
    over another mesh therefore changes no mask.

    Attributes:
      rate: probability that an element becomes zero.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, example_ids_B: Array | None) -> Array:
        """Drops elements of x [B, ...]; the identity if `example_ids_B` is None or the rate 0."""
        if example_ids_B is None or self.rate == 0.0:
            return x
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), example_ids_B)
        seeds_Bx2 = jax.vmap(lambda key: jax.random.bits(key, (2,), _WORD))(keys_B)
        return drop(self.rate, x, seeds_Bx2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def drop(rate: float, x: Array, seeds_Bx2: Array) -> Array:
    """x [B, ...], with elements zero at that rate and the others scaled up for it.

    Args:
      rate: above 0, below 1.
      x: fewer than 2^32 elements in an example.
      seeds_Bx2: of each example, uint32.
    """
    dropped = words(seeds_Bx2, x.shape[1:]) < _WORD(round(rate * 2**32))
    return jnp.where(dropped, jnp.zeros_like(x), scaled(x, 1 / (1 - rate)))


def _forward(rate: float, x: Array, seeds_Bx2: Array) -> tuple[Array, Array]:
    return drop(rate, x, seeds_Bx2), seeds_Bx2


def _backward(rate: float, seeds_Bx2: Array, gradient: Array) -> tuple[Array, None]:
    return drop(rate, gradient, seeds_Bx2), None


drop.defvjp(_forward, _backward)


def words(seeds_Bx2: Array, shape: tuple[int, ...]) -> Array:
    """A random uint32 for each element: [B, *shape].

    The first word of the hash `pcg3d` (Jarzynski and Olano 2020, Hash Functions for GPU Rendering)
    of (number of the element, seed, seed). Its lowest bits are less random than the others; a
    comparison with a rate looks at the highest.
    """
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    iotas = (jax.lax.broadcasted_iota(_WORD, shape, axis) for axis in range(len(shape)))
    number: Any = sum(_WORD(stride) * iota for stride, iota in zip(strides, iotas, strict=True))
    seeds = seeds_Bx2.reshape(-1, 2, *(1,) * len(shape))
    x, y, z = (
        v * _WORD(1664525) + _WORD(1013904223) for v in (number[None], seeds[:, 0], seeds[:, 1])
    )
    x = x + y * z
    y = y + z * x
    z = z + x * y
    x, y, z = (v ^ (v >> _WORD(16)) for v in (x, y, z))
    return x + y * z
