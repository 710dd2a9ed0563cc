"""Small models, exported, and the hidden states of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqrecipes import models, tree
from seqrecipes.conversion.hf.export import export
from seqrecipes.data import pieces
from seqrecipes.models import ModelConfig
from seqrecipes.models.encoder import Embedder, real_lengths
from seqrecipes.models.stack import TransformerStack
from tests.models import tiny

PAD = 1
PADDED_ROWS = 8
TEXTS = {
    "de": ["Die Katze sitzt auf dem Dach.\nEs regnet seit drei Tagen."],
    "en": ["The committee will meet again on Thursday.", "Nobody had expected so much snow."],
    "hi": ["यह किताब बहुत अच्छी है।"],
}


def config(vocabulary: bytes, **overrides: Any) -> ModelConfig:
    """A seq2seq model whose tables have more rows than the vocabulary has pieces."""
    shape = {
        "vocab_size": len(pieces.pieces(vocabulary)) + PADDED_ROWS,
        "hidden_size": 32,
        "mlp_size": 48,
        "num_heads": 4,
        "encoder_layers": 3,
        "max_positions": 40,
    }
    return tiny.config(**shape | overrides)


def random_leaves(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Scales around 1, everything else around 0, no two leaves alike."""
    rng = np.random.default_rng(seed)
    return {
        path: (float(path.endswith("scale")) + 0.15 * rng.standard_normal(leaf.shape)).astype(
            np.float32
        )
        for path, leaf in tree.flatten(models.parameter_shapes(config)).items()
    }


def exported(
    folder: Path, config: ModelConfig, vocabulary: bytes, *, headless: bool = False
) -> dict[str, Any]:
    """Writes a random model to a new folder; returns its parameters."""
    leaves = random_leaves(config)
    folder.mkdir()
    export(folder, config, leaves.__getitem__, vocabulary=vocabulary, headless=headless)
    return tree.unflatten(leaves)


def batch(config: ModelConfig, rows: int = 3, length: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Sources and decoder inputs, padded at the right to a different length in every row."""
    made = tiny.batch(config, rows, source=length, target=length - 2)
    rng = np.random.default_rng(3)
    targets = rng.integers(4, config.vocab_size - PADDED_ROWS, (rows, length - 2), dtype=np.int32)
    source = made["encoder_input_tokens"]
    return np.minimum(source, config.vocab_size - PADDED_ROWS - 1), targets


def states(
    config: ModelConfig, params: dict[str, Any], source: np.ndarray, target: np.ndarray | None
) -> dict[str, list[np.ndarray]]:
    """{stack: embeddings, then every layer's output, after the last LayerNorm if pre-LN}."""
    table = params["token_embedding"]["embedding"]
    lengths = real_lengths(jnp.asarray(source), config.pad_id)

    def run(side: str, tokens: np.ndarray, layers: int, *arguments: Any) -> list[np.ndarray]:
        x = Embedder(config).apply({"params": params[side]["embedding"]}, table[tokens], None)
        every = TransformerStack(config, layers, every_layer=True, causal=side == "decoder").apply(
            {"params": params[side]["stack"]}, x, *arguments, None
        )
        return [np.asarray(x), *np.asarray(every)]

    found = {"encoder": run("encoder", source, config.encoder_layers, lengths, None, None)}
    if target is not None:
        memory = found["encoder"][-1]
        found["decoder"] = run("decoder", target, config.decoder_layers, None, memory, lengths)
    return found
