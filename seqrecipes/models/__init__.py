"""Flax models: batch in, logits out. Nothing here knows of data, training, files or gin."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from seqrecipes.models.config import ModelConfig
from seqrecipes.models.encoder_only import EncoderOnly
from seqrecipes.models.keys import key
from seqrecipes.models.labeller import Head, Labeller
from seqrecipes.models.language_model import LanguageModel
from seqrecipes.models.seq2seq import Seq2Seq

# All that can be trained.
Model = LanguageModel | Labeller


def build(config: ModelConfig) -> LanguageModel:
    """The model that a configuration describes: encoder-only when it has no decoder layers."""
    return Seq2Seq(config) if config.decoder_layers else EncoderOnly(config)


def init_params(config: ModelConfig, seed: int) -> dict[str, Any]:
    """`random_params` of the model that a configuration describes."""
    return random_params(build(config), seed)


def random_params(model: Model, seed: int) -> dict[str, Any]:
    """Random parameters as a nested dictionary; call it under jit or eval_shape."""
    names = ("encoder_input_tokens", "decoder_input_tokens", "masked_positions", "word_positions")
    # Parameters do not depend on the length of the example.
    return model.init(key(seed), {name: jnp.zeros((1, 1), int) for name in names})["params"]


def parameter_shapes(config: ModelConfig) -> dict[str, Any]:
    """`shapes` of the model that a configuration describes."""
    return shapes(build(config))


def shapes(model: Model) -> dict[str, Any]:
    """Nested dictionary of the shapes of a model's parameters; equal models are traced once."""
    # A dictionary of its own for each caller.
    return jax.tree.map(lambda leaf: leaf, _traced(model))


@functools.lru_cache
def _traced(model: Model) -> dict[str, Any]:
    return jax.eval_shape(lambda: random_params(model, 0))


__all__ = [
    "EncoderOnly",
    "Head",
    "Labeller",
    "LanguageModel",
    "Model",
    "ModelConfig",
    "Seq2Seq",
    "build",
    "init_params",
    "parameter_shapes",
    "random_params",
    "shapes",
]
