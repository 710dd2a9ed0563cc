"""The encoder: alike in every model, so that a conversion moves its subtree unchanged."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from seqrecipes.errors import UserError
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.dropout import Dropout
from seqrecipes.models.layers import (
    Array,
    constrain_hidden,
    kernel_init,
    layer_norm,
)
from seqrecipes.models.products import rows
from seqrecipes.models.stack import TransformerStack


class TokenTable(nn.Module):
    """A [vocab_size, D] table: the shared token embedding, or an untied vocabulary projection."""

    config: ModelConfig

    def setup(self) -> None:
        self.embedding = self.param(
            "embedding",
            kernel_init(self.config),
            (self.config.vocab_size, self.config.hidden_size),
        )

    def __call__(self, tokens_BxT: Array) -> Array:
        """Rows of the table [B, T, D], in the compute type."""
        return constrain_hidden(rows(self.embedding, tokens_BxT, self.config.dtype))


class Embedder(nn.Module):
    """Adds positions to token embeddings; LayerNorm and dropout on the sum."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, tokens_BxTxD: Array, example_ids_B: Array | None, position: Array | None = None
    ) -> Array:
        """Token embeddings to the first layer's input: at one position, or (None) at 0, 1, ..."""
        c, length = self.config, tokens_BxTxD.shape[1]
        if position is None and length > c.max_positions:
            # Rows past the end of a table would come out as NaN.
            raise UserError("sequence length", length, f"max_positions is {c.max_positions}")
        # In float32: the gradient of a position is a sum over the batch.
        positions = nn.Embed(
            c.max_positions,
            c.hidden_size,
            embedding_init=kernel_init(c),
            name="position",
        )
        added = positions(jnp.arange(length) if position is None else position)
        x_BxTxD = (tokens_BxTxD + added).astype(c.dtype)
        if c.embedding_norm:
            x_BxTxD = layer_norm(c, "norm")(x_BxTxD)
        return constrain_hidden(Dropout(c.dropout, name="dropout")(x_BxTxD, example_ids_B))


class Encoder(nn.Module):
    """Embeddings and a stack of bidirectional layers."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        tokens_BxSxD: Array,
        lengths_B: Array,
        example_ids_B: Array | None,
        *,
        every_layer: bool = False,
        frozen_layers: int = 0,
    ) -> Array:
        """Token embeddings to contextual states [B, S, D], after the final LayerNorm if pre-LN.

        With `every_layer` the states of all layers [L, B, S, D], each after that same LayerNorm;
        the embeddings themselves are not among them. The lowest `frozen_layers` have no gradient.
        `lengths_B` is as `real_lengths` gives it.
        """
        c = self.config
        x_BxSxD = Embedder(c, name="embedding")(tokens_BxSxD, example_ids_B)
        return TransformerStack(c, c.encoder_layers, every_layer, name="stack")(
            x_BxSxD, lengths_B, None, None, example_ids_B, frozen_layers=frozen_layers
        )


def real_lengths(tokens_BxS: Array, pad_id: int) -> Array:
    """The number of tokens of each example that are no padding: int32[B].

    As many from the first on may be attended to, which takes for granted that padding stands at the
    right. In every batch of a stream it does: a row is padding until the ids of an example, none of
    which is padding, are written over its start.
    """
    return jnp.sum(tokens_BxS != pad_id, axis=1, dtype=jnp.int32)
