"""An encoder-decoder with one token table for both sides (`bart_*`, `2stage_bart_*`).

The decoder reads the encoder's output after its final LayerNorm, or with attention fusion the
states of all encoder layers, each after that LayerNorm. Decoder positions have a table of their
own. The vocabulary projection has no bias; it is the token table (`tie_head`) or a matrix of its
own (two-stage models: Soltan et al. 2023, section 2.1.5).
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from seqrecipes.models.attention_fusion import AttentionFusion
from seqrecipes.models.cache import KeysValues, Source
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.encoder import Embedder, Encoder, TokenTable, real_lengths
from seqrecipes.models.language_model import LanguageModel
from seqrecipes.models.layers import Array
from seqrecipes.models.projection import Projection
from seqrecipes.models.stack import TransformerStack


class Decoder(nn.Module):
    """Embeddings and a stack of causal layers with cross-attention."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        if c.attention_fusion == "shared":
            self.fusion = AttentionFusion(c, in_loop=False)
        self.embedding = Embedder(c)
        self.stack = TransformerStack(c, c.decoder_layers, causal=True)

    def __call__(
        self,
        tokens_BxTxD: Array,
        memory: Array,
        memory_lengths_B: Array,
        example_ids_B: Array | None,
    ) -> Array:
        """Token embeddings to states [B, T, D] that predict the next token.

        Args:
          tokens_BxTxD: token embeddings.
          memory: as `Seq2Seq.encode` gives it.
          memory_lengths_B: how many source tokens may be attended to, as `real_lengths` has it.
          example_ids_B: identity of each example for its dropout; None computes without dropout.
        """
        memory = self._fused(memory)
        x_BxTxD = self.embedding(tokens_BxTxD, example_ids_B)
        return self.stack(x_BxTxD, None, memory, memory_lengths_B, example_ids_B)

    def _fused(self, memory: Array) -> Array:
        return self.fusion(memory) if self.config.attention_fusion == "shared" else memory

    def remember(self, memory: Array, lengths_B: Array) -> Source:
        """What `step` reads of a source, whose memory is as `Seq2Seq.encode` gives it."""
        if self.config.attention_fusion == "decoder_states":
            return Source(None, memory, lengths_B)
        return Source(self.stack.remember(self._fused(memory)), None, lengths_B)

    def step(
        self, tokens_BxNxD: Array, past: KeysValues, source: Source, position: Array
    ) -> tuple[Array, KeysValues]:
        """As `Seq2Seq.step`, from token embeddings."""
        x_BxNxD = self.embedding(tokens_BxNxD, None, position)
        return self.stack.step(x_BxNxD, past, source, position)


class Seq2Seq(LanguageModel):
    """Sequence-to-sequence model.

    Features of a batch: `encoder_input_tokens` [B, S], `decoder_input_tokens` [B, T] (the targets
    shifted right by one) and `decoder_target_tokens` [B, T], where padding is no target. Padding
    stands at the right, so that causality alone keeps it from every real position.
    """

    TARGETS = "decoder_target_tokens"
    TOKENS = ("encoder_input_tokens", "decoder_target_tokens")

    def setup(self) -> None:
        self.token_embedding = TokenTable(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        if not self.config.tie_head:
            self.lm_head = TokenTable(self.config)

    def encode(
        self, tokens_BxS: Array, example_ids_B: Array | None = None, *, frozen_layers: int = 0
    ) -> Array:
        """The decoder's memory of source token ids.

        Contextual states: of the last layer [B, S, D], or with attention fusion of every layer
        [L, B, S, D].
        """
        lengths_B = real_lengths(tokens_BxS, self.config.pad_id)
        return self._contextual(
            self.token_embedding(tokens_BxS), lengths_B, example_ids_B, frozen_layers
        )

    def _contextual(
        self, x_BxSxD: Array, lengths_B: Array, example_ids_B: Array | None, frozen_layers: int
    ) -> Array:
        return self.encoder(
            x_BxSxD,
            lengths_B,
            example_ids_B,
            every_layer=self.config.attention_fusion != "none",
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
        """Decoder states [B, T, D]."""
        source_BxS = batch["encoder_input_tokens"]
        length = source_BxS.shape[1]
        lengths_B = real_lengths(source_BxS, self.config.pad_id)
        # One look into the table: its gradient is made, and summed over devices, once and not for
        # each side.
        x = self.token_embedding(
            jnp.concatenate([source_BxS, batch["decoder_input_tokens"]], axis=1)
        )
        memory = self._contextual(
            x[:, :length],
            lengths_B,
            example_ids_B if encoder_dropout else None,
            frozen_encoder_layers,
        )
        return self.decoder(x[:, length:], memory, lengths_B, example_ids_B)

    def remember(self, tokens_BxS: Array) -> Source:
        """Encodes sources for `step`."""
        lengths_B = real_lengths(tokens_BxS, self.config.pad_id)
        return self.decoder.remember(self.encode(tokens_BxS), lengths_B)

    def step(
        self, tokens_BxN: Array, past: KeysValues, source: Source, position: Array
    ) -> tuple[Array, KeysValues]:
        """Decoder states of one token of each of a source's N beams.

        Args:
          tokens_BxN: token ids.
          past: keys and values of the tokens before, as `cache.empty` or another step gave them.
          source: as `remember` gave it.
          position: of all these tokens, int32[], below `max_positions` and the room in `past`.

        Returns:
          States [B, N, D] that predict the next token, and `past` with these tokens.
        """
        return self.decoder.step(self.token_embedding(tokens_BxN), past, source, position)

    def projection(self, hidden_BxTxD: Array) -> Projection:
        """What the logits of states [B, T, D] are made of."""
        table = self.token_embedding if self.config.tie_head else self.lm_head
        return Projection(hidden_BxTxD, table.embedding)
