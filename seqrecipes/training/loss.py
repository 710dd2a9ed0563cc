"""Cross-entropy summed over tokens, without logits for all tokens at once.

A loss is a sum over tokens; it is divided once, by the number of target tokens of the whole batch,
whatever the number of devices or micro-batches.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqrecipes.config.training import PLAIN, Loss
from seqrecipes.models.products import wide, wide_product
from seqrecipes.models.projection import Projection
from seqrecipes.training import partitioning as parts

Array = jax.Array


class Sums(NamedTuple):
    """Scalars summed over target tokens.

    Attributes:
      objective: what is minimised.
      loss: cross-entropy in nats, whatever is minimised.
      tokens: how many.
      correct: targets whose logit is the largest.
    """

    objective: Array
    loss: Array
    tokens: Array
    correct: Array


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What does not change while a loss is computed."""

    minimised: Loss
    pad_id: int
    tile: int


def cross_entropy(
    projection: Projection,
    targets_BxT: Array,
    *,
    pad_id: int,
    tile: int,
    minimised: Loss = PLAIN,
) -> Sums:
    """Sums over the positions whose target is not padding.

    At most `tile` positions of each example have logits at any time, and never for a second time:
    the pass that makes them also makes the gradient of the objective with respect to the
    projection. Only `objective` has a gradient.

    Args:
      projection: of final states [B, T, D].
      targets_BxT: target ids; padding is no target.
      pad_id: id of padding.
      tile: positions per tile.
      minimised: what is added to the cross-entropy.
    """
    return _sums(_Terms(minimised, pad_id, tile), projection, targets_BxT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(terms: _Terms, projection: Projection, targets_BxT: Array) -> Sums:
    return _over_tiles(terms, projection, targets_BxT, with_gradients=False)[0]


def _forward(terms: _Terms, projection: Projection, targets_BxT: Array) -> Any:
    return _over_tiles(terms, projection, targets_BxT, with_gradients=True)


def _backward(terms: _Terms, gradients: Projection, of_sums: Sums) -> Any:
    scaled = jax.tree.map(lambda x: x * of_sums.objective.astype(x.dtype), gradients)
    return scaled, None


_sums.defvjp(_forward, _backward)


def _over_tiles(
    terms: _Terms, projection: Projection, targets_BxT: Array, *, with_gradients: bool
) -> tuple[Sums, Projection | None]:
    """The sums, and the gradient of the objective with respect to the projection."""
    states_BxTxD, table_VxD, bias_V = projection.states, projection.matrix(), projection.bias_V
    batch, length, width = states_BxTxD.shape
    tile = min(terms.tile, length)
    tiles = -(-length // tile)
    # Each group of rows lies on devices of its own. Sums over tiles stay within a group, so that
    # groups are added up, between devices, once and not after every tile.
    groups = parts.batch_groups()

    def cut(x: Array, filler: int) -> Array:
        """[B, T, ...] to [tiles, G, B / G, t, ...]."""
        edges = [(0, 0), (0, tiles * tile - length), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, edges, constant_values=filler)
        return jnp.moveaxis(x.reshape(groups, -1, tiles, tile, *x.shape[2:]), 2, 0)

    def add(totals: Any, inputs: tuple[Array, Array]) -> Any:
        sums, of_table_GxVxD, of_bias_GxV = totals
        states, targets = inputs
        here, of_logits = _of_logits(
            Projection(states, table_VxD, bias_V).logits(), targets, terms, with_gradients
        )
        sums = jax.tree.map(jnp.add, sums, here)
        if of_logits is None:
            return (sums, None, None), None
        if of_bias_GxV is not None:
            of_bias_GxV += jnp.sum(of_logits, axis=(1, 2))
        # Matrix products of the compute type, as those of the layers.
        of_logits = of_logits.astype(states.dtype)
        of_states = jnp.einsum("gbtv,vd->gbtd", of_logits, table_VxD)
        of_table_GxVxD += wide_product("gbtv,gbtd->gvd", of_logits, states)
        of_table_GxVxD = nn.with_logical_constraint(of_table_GxVxD, ("batch", "vocab", None))
        return (sums, of_table_GxVxD, of_bias_GxV), of_states

    def zeros(*shape: int) -> Array:
        return jnp.zeros((groups, *shape), wide(states_BxTxD.dtype))

    start: Any = (
        Sums(*(zeros() for _ in Sums._fields)),
        zeros(*table_VxD.shape) if with_gradients else None,
        zeros(*bias_V.shape) if with_gradients and bias_V is not None else None,
    )
    inputs = cut(states_BxTxD, 0), cut(targets_BxT, terms.pad_id)
    totals, of_states = jax.lax.scan(add, start, inputs)
    sums, of_table, of_bias = totals
    sums = jax.tree.map(jnp.sum, sums)
    if not with_gradients:
        return sums, None
    of_states = jnp.moveaxis(of_states, 0, 2).reshape(batch, tiles * tile, width)[:, :length]
    return sums, Projection(
        of_states,
        of_table.sum(0).astype(projection.table_VxD.dtype),
        None if bias_V is None else of_bias.sum(0).astype(bias_V.dtype),
    )


def _of_logits(
    logits: Array, targets: Array, terms: _Terms, with_gradient: bool
) -> tuple[Sums, Array | None]:
    """Sums [G] of logits [G, b, t, V], and the gradient of the objective with respect to them."""
    size = logits.shape[-1]
    weights = (targets != terms.pad_id).astype(logits.dtype)
    # A comparison in place of a gather: it stays local when the vocabulary is sharded.
    hit = jnp.arange(size) == targets[..., None]
    target_logits = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
    largest = jnp.max(logits, axis=-1)
    log_total = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    losses = objective = log_total - target_logits
    # Of the target's share in the smoothed distribution, and of each other id's.
    smoothing, z_loss = terms.minimised.label_smoothing, terms.minimised.z_loss
    other = smoothing / (size - 1)
    if smoothing:
        of_all = size * log_total - jnp.sum(logits, axis=-1)
        objective = (1 - smoothing - other) * losses + other * of_all
    if z_loss:
        objective = objective + z_loss * log_total**2
    # A target as large as the largest: an argmax would be a search of its own.
    correct = (target_logits == largest).astype(logits.dtype)
    each = (objective * weights, losses * weights, weights, correct * weights)
    sums = Sums(*(jnp.sum(x, axis=(1, 2)) for x in each))
    if not with_gradient:
        return sums, None
    # The probabilities minus the distribution of the targets.
    factors = weights * (1 + 2 * z_loss * log_total) if z_loss else weights
    of_logits = jnp.exp(logits - log_total[..., None]) * factors[..., None]
    wanted = jnp.where(hit, 1 - smoothing, other) if smoothing else hit
    return sums, of_logits - wanted * weights[..., None]
