"""The Flax models against an independent NumPy implementation."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes.models import EncoderOnly, build
from seqrecipes.models.encoder import real_lengths
from tests.models import oracle, tiny

# Every pair of choices occurs, for both models.
SHAPES = [("pre", True, True), ("pre", False, False), ("post", True, False), ("post", False, True)]


@pytest.mark.parametrize("decoder_layers", [0, 2])
@pytest.mark.parametrize(("norm", "embedding_norm", "tie_head"), SHAPES)
def test_logits_equal_numpy_in_float64(
    decoder_layers: int, norm: str, embedding_norm: bool, tie_head: bool
) -> None:
    config = tiny.config(
        decoder_layers=decoder_layers,
        norm=norm,
        embedding_norm=embedding_norm,
        tie_head=tie_head,
        dtype="float64",
    )
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model)
    expected = (oracle.seq2seq_logits if decoder_layers else oracle.mlm_logits)(
        batch, params, config
    )
    with jax.enable_x64(True):
        logits = jax.jit(model.apply)({"params": params}, batch)
    assert logits.dtype == np.float64
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("fusion", ["shared", "per_layer", "decoder_states"])
def test_logits_with_attention_fusion_equal_numpy_in_float64(fusion: str, norm: str) -> None:
    config = tiny.config(attention_fusion=fusion, norm=norm, encoder_layers=3, dtype="float64")
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model)
    expected = oracle.seq2seq_logits(batch, params, config)
    with jax.enable_x64(True):
        logits = jax.jit(model.apply)({"params": params}, batch)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize(
    ("decoder_layers", "fusion"),
    [(0, "none"), (2, "none"), (2, "shared"), (2, "per_layer"), (2, "decoder_states")],
)
def test_lower_precisions_stay_close(
    decoder_layers: int, fusion: str, dtype: str, tolerance: float
) -> None:
    config = tiny.config(decoder_layers=decoder_layers, attention_fusion=fusion, dtype=dtype)
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model, dtype="float32")
    expected = (oracle.seq2seq_logits if decoder_layers else oracle.mlm_logits)(
        batch, params, config
    )
    logits = jax.jit(model.apply)({"params": params}, batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_states_of_the_last_and_of_every_layer_equal_numpy(norm: str) -> None:
    config = tiny.config(decoder_layers=0, dtype="float64", encoder_layers=3, norm=norm)
    model = build(config)
    params = tiny.random_params(model)
    tokens = tiny.batch(config)["encoder_input_tokens"]

    def every_layer(m: EncoderOnly, x: Any) -> Any:
        lengths = real_lengths(x, tiny.PAD)
        return m.encoder(m.token_embedding(x), lengths, None, every_layer=True)

    with jax.enable_x64(True):
        last, states = (
            jax.jit(functools.partial(model.apply, method=method))({"params": params}, tokens)
            for method in ("encode", every_layer)
        )
    expected = np.stack([oracle.encode(row, params, config) for row in tokens], axis=1)
    assert states.shape == (3, *tokens.shape, config.hidden_size)
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(last, expected[-1], rtol=0, atol=1e-11)
