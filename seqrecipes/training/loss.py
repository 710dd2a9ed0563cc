"""Cross-entropy summed over tokens, without logits for all tokens at once.

A loss is a sum over tokens; it is divided once, by the number of target tokens of the whole batch,
whatever the number of devices or micro-batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqrecipes.errors import UserError

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Loss:
    """What is minimised: cross-entropy, with what is added to it.

    Attributes:
      label_smoothing: share of a target's probability that goes to all other ids alike (Szegedy et
        al. 2016, section 7).
      z_loss: factor on the squared logarithm of the softmax's denominator, which keeps logits from
        drifting away together (Chowdhery et al. 2022, section 5; 1e-4 there).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError("Loss.label_smoothing", self.label_smoothing, "lies in [0, 1)")
        if self.z_loss < 0:
            raise UserError("Loss.z_loss", self.z_loss, "must not be negative")


PLAIN = Loss()


class Sums(NamedTuple):
    """Scalars summed over target tokens.

    Attributes:
      objective: what is minimised.
      loss: cross-entropy in nats, whatever is minimised.
      tokens: how many.
      correct: predictions that hit.
    """

    objective: Array
    loss: Array
    tokens: Array
    correct: Array


def cross_entropy(
    logits_BxTxV: Array, targets_BxT: Array, pad_id: int, minimised: Loss = PLAIN
) -> Sums:
    """Sums over the positions whose target is not padding."""
    weights_BxT = (targets_BxT != pad_id).astype(logits_BxTxV.dtype)
    # A comparison in place of a gather: it stays local when the vocabulary is sharded.
    hit_BxTxV = jnp.arange(logits_BxTxV.shape[-1]) == targets_BxT[..., None]
    target_logits_BxT = jnp.sum(jnp.where(hit_BxTxV, logits_BxTxV, 0), axis=-1)
    log_total_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    losses_BxT = objective_BxT = log_total_BxT - target_logits_BxT
    if smoothing := minimised.label_smoothing:
        size = logits_BxTxV.shape[-1]
        other = smoothing / (size - 1)
        all_losses_BxT = size * log_total_BxT - jnp.sum(logits_BxTxV, axis=-1)
        objective_BxT = (1 - smoothing - other) * losses_BxT + other * all_losses_BxT
    if minimised.z_loss:
        objective_BxT = objective_BxT + minimised.z_loss * log_total_BxT**2
    correct_BxT = jnp.argmax(logits_BxTxV, axis=-1) == targets_BxT
    return Sums(
        jnp.sum(objective_BxT * weights_BxT),
        jnp.sum(losses_BxT * weights_BxT),
        jnp.sum(weights_BxT),
        jnp.sum(correct_BxT * weights_BxT),
    )


def tiled_cross_entropy(
    logits_of: Callable[[Array], Array],
    hidden_BxTxD: Array,
    targets_BxT: Array,
    *,
    pad_id: int,
    tile: int,
    minimised: Loss = PLAIN,
) -> Sums:
    """`cross_entropy(logits_of(hidden), targets)` over tiles of positions.

    At most `tile` positions of each example have logits at any time; the backward pass computes
    them again.

    Args:
      logits_of: vocabulary projection, [B, t, D] -> [B, t, V].
      hidden_BxTxD: final states.
      targets_BxT: target ids; padding is no target.
      pad_id: id of padding.
      tile: positions per tile.
      minimised: what is added to the cross-entropy.
    """
    batch, length, width = hidden_BxTxD.shape
    if length <= tile:
        return cross_entropy(logits_of(hidden_BxTxD), targets_BxT, pad_id, minimised)
    tiles = -(-length // tile)
    extra = ((0, 0), (0, tiles * tile - length))
    hidden = jnp.pad(hidden_BxTxD, (*extra, (0, 0))).reshape(batch, tiles, tile, width)
    targets = jnp.pad(targets_BxT, extra, constant_values=pad_id).reshape(batch, tiles, tile)

    @jax.checkpoint
    def add(total: Sums, inputs: tuple[Array, Array]) -> tuple[Sums, None]:
        sums = cross_entropy(logits_of(inputs[0]), inputs[1], pad_id, minimised)
        return Sums(*map(jnp.add, total, sums)), None

    zero = jnp.zeros((), jnp.promote_types(hidden_BxTxD.dtype, jnp.float32))
    total, _ = jax.lax.scan(
        add, Sums(zero, zero, zero, zero), (hidden.swapaxes(0, 1), targets.swapaxes(0, 1))
    )
    return total
