"""Token by token, with what was kept, a decoder gives what it gives for whole texts at once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.models import build, cache
from tests.models import tiny

FUSIONS = ["none", "shared", "per_layer", "decoder_states"]
BEAMS = 3


def texts(config: Any, rows: int) -> np.ndarray:
    """Decoder inputs [B, N, T], other ones for every beam."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(4, config.vocab_size, (rows, BEAMS, 6)).astype(np.int32)
    tokens[:, :, 0] = 2
    return tokens


def random_params(model: Any) -> Any:
    return jax.tree.map(jnp.asarray, tiny.random_params(model, dtype="float32"))


def whole(model: Any, params: Any, source: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, N, T, V] of every beam by itself, in one pass."""

    @jax.jit
    def logits(target: Any) -> Any:
        batch = {"encoder_input_tokens": source, "decoder_input_tokens": target}
        return model.apply({"params": params}, batch)

    return np.stack([logits(tokens[:, n]) for n in range(tokens.shape[1])], axis=1)


def by_token(
    model: Any, params: Any, source: np.ndarray, tokens: np.ndarray, swap: Any = None
) -> np.ndarray:
    """The same, a token at a time; after the third token beams are chosen anew."""
    variables = {"params": params}
    kept = model.apply(variables, source, method="remember")
    rows, beams, length = tokens.shape
    past = cache.empty(model.config, rows, beams, 4)

    @jax.jit
    def step(last: Any, past: Any, position: Any) -> Any:
        states, past = model.apply(variables, last, past, kept, position, method="step")
        return model.apply(variables, states, method="logits"), past

    result = []
    for t in range(length):
        if t == 3 and swap is not None:
            past = cache.choose(past, jnp.asarray(swap))
        if t == 4:
            past = cache.widen(past, 3)
        logits, past = step(tokens[:, :, t], past, t)
        result.append(logits)
    return np.stack(result, axis=2)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    "shape",
    [
        {"dtype": "bfloat16"},
        {"norm": "post", "scan_layers": False, "embedding_norm": False},
        {"tie_head": False, "remat": "full", "encoder_layers": 3},
    ],
    ids=["bfloat16", "post-LN, unrolled", "untied, remat"],
)
def test_steps_give_the_logits_of_whole_texts(shape: Any, fusion: str) -> None:
    model = build(tiny.config(attention_fusion=fusion, **shape))
    params = random_params(model)
    source = tiny.batch(model.config)["encoder_input_tokens"]
    tokens = texts(model.config, len(source))
    expected, found = whole(model, params, source, tokens), by_token(model, params, source, tokens)
    assert found.dtype == np.float32
    # bfloat16 keeps eight bits of every intermediate result.
    tolerance = 2e-5 if model.config.dtype == "float32" else 0.05
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.1 * np.abs(expected).max()


def test_beams_go_on_with_the_past_of_the_ones_they_come_from() -> None:
    model = build(tiny.config(attention_fusion="per_layer"))
    params = random_params(model)
    source = tiny.batch(model.config)["encoder_input_tokens"]
    tokens = texts(model.config, len(source))
    swap = np.array([[2, 0, 0], [1, 1, 1], [0, 2, 1]])
    found = by_token(model, params, source, tokens, swap)
    lived = tokens.copy()
    lived[:, :, :3] = np.take_along_axis(tokens, swap[..., None], axis=1)[:, :, :3]
    expected = whole(model, params, source, lived)
    np.testing.assert_allclose(found[:, :, 3:], expected[:, :, 3:], atol=2e-5)
    unmoved = whole(model, params, source, tokens)
    assert np.abs(unmoved[:, :, 3:] - expected[:, :, 3:]).max() > 0.1


def test_of_a_source_one_copy_is_kept_for_all_beams() -> None:
    config = tiny.config(dtype="bfloat16")
    model = build(config)
    params = random_params(model)
    source = tiny.batch(config, rows=3, source=7)["encoder_input_tokens"]
    kept = model.apply({"params": params}, source, method="remember")
    assert [x.shape for x in kept.read] == [(2, 3, 2, 7, 8)] * 2  # [L, B, H, S, K]
    assert kept.memory is None
    past = cache.empty(config, 3, BEAMS, 5)
    assert [(x.shape, x.dtype.name) for x in past] == [((2, 3, BEAMS, 2, 5, 8), "bfloat16")] * 2


def test_a_source_of_padding_alone_gives_finite_states() -> None:
    model = build(tiny.config())
    params = random_params(model)
    source = np.full((2, 5), tiny.PAD, np.int32)
    assert np.isfinite(by_token(model, params, source, texts(model.config, 2))).all()
