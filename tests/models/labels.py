"""A labeller small enough for tests: one head on <s>, one on words."""

from __future__ import annotations

from typing import Any

import numpy as np

from seqrecipes.models import Head, Labeller
from tests.models import tiny

LABELS, TAGS = 3, 5
HEADS = Head("label", LABELS, (12, 10)), Head("words", TAGS, (14,), "words")


def labeller(heads: tuple[Head, ...] = HEADS, **overrides: Any) -> Labeller:
    """Without dropout unless asked for."""
    return Labeller(tiny.config(**({"decoder_layers": 0} | overrides)), heads)


def batch(model: Labeller, rows: int = 4, *, length: int = 9, words: int = 6) -> tiny.Arrays:
    """Fewer words in every row than in the one before; row 1 has no label of its own."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(4, model.config.vocab_size, (rows, length)).astype(np.int32)
    counts = np.maximum(words - np.arange(rows), 1)[:, None]
    tokens = np.where(np.arange(length) < counts + 3, tokens, tiny.PAD)
    present = np.arange(words) < counts
    positions = np.where(present, 1 + np.arange(words), 0)
    tags = np.where(present, rng.integers(0, TAGS, (rows, words)), -1)
    label = rng.integers(0, LABELS, (rows, 1))
    label[1] = -1
    features = {
        "encoder_input_tokens": tokens,
        "label": label,
        "word_positions": positions,
        "word_labels": tags,
    }
    return {name: values.astype(np.int32) for name, values in features.items()}
