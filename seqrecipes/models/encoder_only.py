"""An encoder with a masked-language-model head (`roberta_12e`).

The head is RoBERTa's: dense, GELU, LayerNorm, projection to the vocabulary with a bias. It reads
only the masked positions, whose number per example is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from seqrecipes.models.config import ModelConfig
from seqrecipes.models.encoder import Encoder, TokenTable, real_lengths
from seqrecipes.models.language_model import LanguageModel
from seqrecipes.models.layers import Array, Dense, kernel_init, layer_norm
from seqrecipes.models.projection import Projection


class MlmHead(nn.Module):
    """What RoBERTa's head projects to the vocabulary, through the given [V, D] table."""

    config: ModelConfig

    @nn.compact
    def __call__(self, hidden_BxPxD: Array, table_VxD: Array | None) -> Projection:
        """Of states [B, P, D]; the head owns its table when `table_VxD` is None."""
        c = self.config
        h_BxPxD = Dense(c.hidden_size, dtype=c.dtype, kernel_init=kernel_init(c), name="dense")(
            hidden_BxPxD
        )
        h_BxPxD = layer_norm(c, "norm")(nn.gelu(h_BxPxD, approximate=False))
        if table_VxD is None:
            table_VxD = TokenTable(c, name="projection").embedding
        bias_V = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        return Projection(h_BxPxD, table_VxD, bias_V)


class EncoderOnly(LanguageModel):
    """Masked language model.

    Features of a batch: `encoder_input_tokens` [B, S], `masked_positions` [B, P] and
    `masked_targets` [B, P], where a target equal to the padding id is no target.
    """

    TARGETS = "masked_targets"
    TOKENS = ("encoder_input_tokens",)

    def setup(self) -> None:
        self.token_embedding = TokenTable(self.config)
        self.encoder = Encoder(self.config)
        self.mlm_head = MlmHead(self.config)

    def encode(
        self, tokens_BxS: Array, example_ids_B: Array | None = None, *, frozen_layers: int = 0
    ) -> Array:
        """Contextual states [B, S, D] of token ids."""
        return self.encoder(
            self.token_embedding(tokens_BxS),
            real_lengths(tokens_BxS, self.config.pad_id),
            example_ids_B,
            frozen_layers=frozen_layers,
        )

    def hidden(
        self,
        batch: Mapping[str, Array],
        example_ids_B: Array | None = None,
        *,
        encoder_dropout: bool = True,
        frozen_encoder_layers: int = 0,
    ) -> Array:
        """States at the masked positions [B, P, D]."""
        encoder_ids_B = example_ids_B if encoder_dropout else None
        states_BxSxD = self.encode(
            batch["encoder_input_tokens"], encoder_ids_B, frozen_layers=frozen_encoder_layers
        )
        return jnp.take_along_axis(states_BxSxD, batch["masked_positions"][:, :, None], axis=1)

    def projection(self, hidden_BxPxD: Array) -> Projection:
        """What the logits of states [B, P, D] are made of."""
        table = self.token_embedding.embedding if self.config.tie_head else None
        return self.mlm_head(hidden_BxPxD, table)
