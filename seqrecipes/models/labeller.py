"""An encoder with classification heads: one label an example, one a word, or both.

The encoder is that of every other model, under the same paths, so that a warm start moves it. Each
head has layers of its own (Soltan et al. 2023, section 3.1 and Table 10).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import flax.linen as nn
import jax.numpy as jnp

from seqrecipes.config.check import Range, check_fields
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.dropout import Dropout
from seqrecipes.models.encoder import Encoder, TokenTable, real_lengths
from seqrecipes.models.layers import Array, Dense, kernel_init
from seqrecipes.models.projection import Prediction, Projection

# What a head reads, and the feature that says what it should find there.
TARGETS = {"first": "label", "words": "word_labels"}
NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Head:
    """The shape of a head.

    Attributes:
      name: its parameters are below `heads/<name>`.
      labels: how many there are.
      hidden: widths of the layers between the encoder and the labels.
      reads: the state of <s> ('first'), or that of each word's first sub-word ('words').
    """

    name: str
    labels: Annotated[int, Range(1)]
    hidden: Sequence[Annotated[int, Range(1)]] = (512,)
    reads: Literal["first", "words"] = "first"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))  # modules are hashed
        check_fields(self)

    @property
    def targets(self) -> str:
        """The feature that it predicts."""
        return TARGETS[self.reads]


class Classifier(nn.Module):
    """Dense layers with the exact (erf) GELU between them; dropout before each."""

    config: ModelConfig
    head: Head

    @nn.compact
    def __call__(self, x_BxPxD: Array, example_ids_B: Array | None) -> Projection:
        """What the logits [B, P, labels] of states [B, P, D] are made of."""
        c = self.config
        for layer, width in enumerate(self.head.hidden):
            x_BxPxD = Dropout(c.dropout, name=f"dropout_{layer}")(x_BxPxD, example_ids_B)
            dense = Dense(width, dtype=c.dtype, kernel_init=kernel_init(c), name=f"hidden_{layer}")
            x_BxPxD = nn.gelu(dense(x_BxPxD), approximate=False)
        x_BxPxD = Dropout(c.dropout, name="dropout")(x_BxPxD, example_ids_B)
        return Output(c, self.head.labels, name="output")(x_BxPxD)


class Output(nn.Module):
    """A dense layer that is left to the loss to multiply out."""

    config: ModelConfig
    labels: int

    @nn.compact
    def __call__(self, x_BxPxD: Array) -> Projection:
        c = self.config
        kernel = self.param("kernel", kernel_init(c), (x_BxPxD.shape[-1], self.labels))
        bias = self.param("bias", nn.initializers.zeros, (self.labels,))
        return Projection(x_BxPxD, kernel.T, bias)


class Classifiers(nn.Module):
    """All heads of a model."""

    config: ModelConfig
    heads: tuple[Head, ...]

    @nn.compact
    def __call__(
        self, states_BxSxD: Array, batch: Mapping[str, Array], example_ids_B: Array | None
    ) -> dict[str, Projection]:
        """Each head's projection, by its name."""
        found = {}
        for head in self.heads:
            read = states_BxSxD[:, :1]
            if head.reads == "words":
                read = jnp.take_along_axis(
                    states_BxSxD, batch["word_positions"][:, :, None], axis=1
                )
            found[head.name] = Classifier(self.config, head, name=head.name)(read, example_ids_B)
        return found


class Labeller(nn.Module):
    """Labels for an example and for its words.

    Features of a batch: `encoder_input_tokens` [B, S]; for heads that read <s>, `label` [B, 1]; for
    heads that read words, `word_positions` [B, W] and `word_labels` [B, W]. A label of -1 is no
    target. The loss is the sum over all heads (Chen et al. 2019, section 3.2).

    Attributes:
      config: of the encoder.
      shapes: the heads; names are their own.
    """

    config: ModelConfig
    shapes: tuple[Head, ...]

    # Token features, the original text's length last.
    TOKENS = ("encoder_input_tokens",)

    def setup(self) -> None:
        self.token_embedding = TokenTable(self.config)
        self.encoder = Encoder(self.config)
        self.heads = Classifiers(self.config, self.shapes)

    def projections(
        self,
        batch: Mapping[str, Array],
        example_ids_B: Array | None = None,
        *,
        encoder_dropout: bool = True,
        frozen_encoder_layers: int = 0,
    ) -> dict[str, Projection]:
        """What each head's logits are made of: of states [B, 1, D] or [B, W, D].

        Args:
          batch: the features named in the class docstring; labels are not needed.
          example_ids_B: identity of each example for its dropout; None computes without dropout.
          encoder_dropout: False computes the encoder without dropout in any case.
          frozen_encoder_layers: so many of the encoder's lowest layers have no gradient.
        """
        tokens_BxS = batch["encoder_input_tokens"]
        states_BxSxD = self.encoder(
            self.token_embedding(tokens_BxS),
            real_lengths(tokens_BxS, self.config.pad_id),
            example_ids_B if encoder_dropout else None,
            frozen_layers=frozen_encoder_layers,
        )
        return self.heads(states_BxSxD, batch, example_ids_B)

    def predictions(
        self,
        batch: Mapping[str, Array],
        example_ids_B: Array | None = None,
        *,
        encoder_dropout: bool = True,
        frozen_encoder_layers: int = 0,
    ) -> tuple[Prediction, ...]:
        """What each head predicts; arguments as of `projections`."""
        found = self.projections(
            batch,
            example_ids_B,
            encoder_dropout=encoder_dropout,
            frozen_encoder_layers=frozen_encoder_layers,
        )
        return tuple(
            Prediction(found[head.name], batch[head.targets], NO_LABEL) for head in self.shapes
        )

    def __call__(
        self, batch: Mapping[str, Array], example_ids_B: Array | None = None
    ) -> dict[str, Array]:
        """Logits [B, 1 or W, labels] of each head, in float32."""
        found = self.projections(batch, example_ids_B)
        return {name: projection.logits() for name, projection in found.items()}
