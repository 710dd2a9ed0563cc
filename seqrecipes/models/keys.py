"""Random keys by one generator, whatever JAX's default is."""

from __future__ import annotations

import jax


def key(seed: int) -> jax.Array:
    """The key of a seed, by the generator that all random numbers of a recipe come from.

    JAX's default may be another one: the bits of `rbg`, usual on TPUs, depend on how a batch is
    laid out.
    """
    return jax.random.key(seed, impl="threefry2x32")
