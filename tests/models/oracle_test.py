"""The Flax models against an independent NumPy implementation."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from seqrecipes.models import build
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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_lower_precisions_stay_close(decoder_layers: int, dtype: str, tolerance: float) -> None:
    config = tiny.config(decoder_layers=decoder_layers, dtype=dtype)
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model, dtype="float32")
    expected = (oracle.seq2seq_logits if decoder_layers else oracle.mlm_logits)(
        batch, params, config
    )
    logits = jax.jit(model.apply)({"params": params}, batch)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)


def test_encoder_states_equal_numpy_at_every_real_position() -> None:
    config = tiny.config(decoder_layers=0, dtype="float64", encoder_layers=3)
    model = build(config)
    params = tiny.random_params(model)
    tokens = tiny.batch(config)["encoder_input_tokens"]
    with jax.enable_x64(True):
        states = jax.jit(lambda p, x: model.apply({"params": p}, x, method="encode"))(
            params, tokens
        )
    expected = np.stack([oracle.encode(row, params, config) for row in tokens])
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-11)
