"""Models and batches small enough for tests, and parameters that hide nothing.

Freshly initialised biases are 0 and scales 1, so that a bias left out or a scale used twice would
not show. `random_params` gives every leaf values of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqrecipes import models, tree
from seqrecipes.models import Model, ModelConfig

PAD = 1
# JAX takes NumPy arrays wherever it takes its own; its types say `jax.Array` alone.
Arrays = dict[str, Any]


def config(**overrides: Any) -> ModelConfig:
    """A two-layer seq2seq model without dropout; `decoder_layers=0` makes it encoder-only."""
    fields: dict[str, Any] = {
        "vocab_size": 24,
        "hidden_size": 16,
        "mlp_size": 24,
        "num_heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_positions": 20,
        "attention_fusion": "none",
        "norm": "pre",
        "embedding_norm": True,
        "norm_epsilon": 1e-5,
        "tie_head": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "pad_id": PAD,
        "attention": "auto",
        "dtype": "float32",
        "scan_layers": True,
        "remat": "none",
    }
    return ModelConfig(**fields | overrides)


def batch(
    model_config: ModelConfig, rows: int = 3, *, source: int = 7, target: int = 6, seed: int = 0
) -> Arrays:
    """A batch for either model, padded at the right to a different length in every row."""
    rng = np.random.default_rng(seed)

    def tokens(length: int) -> np.ndarray:
        ids = rng.integers(4, model_config.vocab_size, (rows, length)).astype(np.int32)
        # Row 0 is full, so that no column is padding throughout.
        lengths = np.concatenate([[length], rng.integers(2, length + 1, rows - 1)])
        return np.where(np.arange(length) < lengths[:, None], ids, PAD).astype(np.int32)

    inputs = tokens(source)
    if model_config.decoder_layers:
        targets = tokens(target)
        shifted = np.concatenate([np.full((rows, 1), 2, np.int32), targets[:, :-1]], axis=1)
        return {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": shifted,
            "decoder_target_tokens": targets,
        }
    picks = min(4, source)
    positions = np.stack([rng.permutation(source)[:picks] for _ in range(rows)]).astype(np.int32)
    labels = rng.integers(4, model_config.vocab_size, (rows, picks)).astype(np.int32)
    real = np.take_along_axis(inputs, positions, 1) != PAD
    return {
        "encoder_input_tokens": inputs,
        "masked_positions": positions,
        "masked_targets": np.where(real, labels, PAD).astype(np.int32),
    }


def shapes(model: Model) -> dict[str, Any]:
    """The parameter tree of a model as shapes."""
    # Shapes depend on no compute type, and float64 may be switched off where this is called.
    return models.shapes(model.clone(config=dataclasses.replace(model.config, dtype="float32")))


def random_params(model: Model, seed: int = 0, dtype: str = "float64") -> dict[str, Any]:
    """NumPy parameters: scales around 1, everything else around 0, no two leaves alike."""
    rng = np.random.default_rng(seed)
    leaves = {
        path: (
            (1.0 if path.endswith("scale") else 0.0) + 0.3 * rng.standard_normal(leaf.shape)
        ).astype(dtype)
        for path, leaf in sorted(tree.flatten(shapes(model)).items())
    }
    return tree.unflatten(leaves)


def norm_of(leaves: Mapping[str, Any]) -> float:
    """Euclidean norm of all leaves together, in float64."""
    return float(np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in leaves.values())))
