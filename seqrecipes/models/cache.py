"""What a decoder keeps while it writes a text token by token, for several beams of each source.

Letters as in `layers.py`, and N beams. All beams of a source have the same length at any time, and
share what is kept of the source.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqrecipes.models.config import ModelConfig

Array = jax.Array


class KeysValues(NamedTuple):
    """Keys and values of attention, of one layer or with an axis of layers in front.

    Attributes:
      keys: of earlier tokens [B, N, H, T, K], of a source [B, H, S, K], of one token [B, N, H, K].
      values: of that shape.
    """

    keys: Array
    values: Array


class Source(NamedTuple):
    """What cross-attention reads.

    Attributes:
      read: keys and values [L, B, H, S, K] of every decoder layer; None where they depend on the
        decoder's queries (`attention_fusion = 'decoder_states'`).
      memory: in that case the states of all encoder layers [L, B, S, D], else None.
      lengths_B: how many source tokens may be attended to.
    """

    read: KeysValues | None
    memory: Array | None
    lengths_B: Array


def empty(config: ModelConfig, batch: int, beams: int, length: int) -> KeysValues:
    """Room for the keys and values of so many tokens: [L, B, N, H, T, K], of the compute type."""
    shape = config.decoder_layers, batch, beams, config.num_heads, length, config.head_size
    axes = None, "batch", None, "heads", None, "head"
    zeros = nn.with_logical_constraint(jnp.zeros(shape, config.dtype), axes)
    return KeysValues(zeros, zeros)


def widen(past: KeysValues, more: int) -> KeysValues:
    """The same with room for so many more tokens."""
    widths = [(0, more if axis == 4 else 0) for axis in range(past.keys.ndim)]
    return KeysValues(*(jnp.pad(room, widths) for room in past))


def write(past: KeysValues, new: KeysValues, position: Array) -> KeysValues:
    """The keys and values of all layers' new tokens [L, B, N, H, K], put where they belong."""
    return KeysValues(
        *(
            jax.lax.dynamic_update_index_in_dim(room, of_token, position, axis=4)
            for room, of_token in zip(past, new, strict=True)
        )
    )


def choose(past: KeysValues, beams_BxM: Array) -> KeysValues:
    """The past of the beams with these numbers, in that order: [L, B, M, H, T, K]."""
    index = beams_BxM[None, :, :, None, None, None]
    return KeysValues(*(jnp.take_along_axis(room, index, axis=2) for room in past))
