"""Flax models: batch in, logits out. Nothing here knows of data, training, files or gin."""

from __future__ import annotations

from seqrecipes.models.config import ModelConfig
from seqrecipes.models.encoder_only import EncoderOnly
from seqrecipes.models.seq2seq import Seq2Seq

Model = EncoderOnly | Seq2Seq


def build(config: ModelConfig) -> Model:
    """The model that a configuration describes: encoder-only when it has no decoder layers."""
    return Seq2Seq(config) if config.decoder_layers else EncoderOnly(config)


__all__ = ["EncoderOnly", "Model", "ModelConfig", "Seq2Seq", "build"]
