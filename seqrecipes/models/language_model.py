"""What predicts pieces of a vocabulary, as in pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn

from seqrecipes.models.config import ModelConfig
from seqrecipes.models.layers import Array
from seqrecipes.models.projection import Prediction, Projection


class LanguageModel(nn.Module):
    """States that predict a piece each; every kind of model gives `hidden` and `projection`."""

    config: ModelConfig

    # Predicted feature; token features, the original text's length last.
    TARGETS: ClassVar[str]
    TOKENS: ClassVar[tuple[str, ...]]

    def hidden(
        self,
        batch: Mapping[str, Array],
        example_ids_B: Array | None = None,
        *,
        encoder_dropout: bool = True,
        frozen_encoder_layers: int = 0,
    ) -> Array:
        """States [B, T, D] that predict the targets [B, T].

        Args:
          batch: the features named in the model's docstring.
          example_ids_B: identity of each example for its dropout; None computes without dropout.
          encoder_dropout: False computes the encoder without dropout in any case.
          frozen_encoder_layers: so many of the encoder's lowest layers have no gradient.
        """
        raise NotImplementedError

    def projection(self, hidden_BxTxD: Array) -> Projection:
        """What the logits of states [B, T, D] are made of."""
        raise NotImplementedError

    def predictions(
        self,
        batch: Mapping[str, Array],
        example_ids_B: Array | None = None,
        *,
        encoder_dropout: bool = True,
        frozen_encoder_layers: int = 0,
    ) -> tuple[Prediction, ...]:
        """What is predicted; arguments as of `hidden`."""
        hidden_BxTxD = self.hidden(
            batch,
            example_ids_B,
            encoder_dropout=encoder_dropout,
            frozen_encoder_layers=frozen_encoder_layers,
        )
        targets_BxT = batch[self.TARGETS]
        return (Prediction(self.projection(hidden_BxTxD), targets_BxT, self.config.pad_id),)

    def logits(self, hidden_BxTxD: Array) -> Array:
        """Vocabulary logits [B, T, V] in float32."""
        return self.projection(hidden_BxTxD).logits()

    def __call__(self, batch: Mapping[str, Array], example_ids_B: Array | None = None) -> Array:
        return self.logits(self.hidden(batch, example_ids_B))
