"""Analytic FLOPs against XLA's own count of the compiled program, and against hand counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from seqrecipes import models
from seqrecipes.training import flops
from tests.models import tiny

SEQ2SEQ = {"encoder_input_tokens": 24, "decoder_input_tokens": 32, "decoder_target_tokens": 32}
MLM = {"encoder_input_tokens": 32, "masked_positions": 5, "masked_targets": 5}


@pytest.mark.parametrize(("decoder_layers", "features"), [(0, MLM), (1, SEQ2SEQ)])
def test_the_forward_pass_costs_what_xla_counts(decoder_layers, features):
    # Wide enough that matrix products dominate; unrolled, because XLA counts a loop's body once.
    config = tiny.config(
        decoder_layers=decoder_layers,
        hidden_size=512,
        mlp_size=2048,
        num_heads=4,
        vocab_size=2048,
        max_positions=32,
        scan_layers=False,
        encoder_layers=1,
    )
    model = models.build(config)
    batch = {name: jnp.ones((4, length), jnp.int32) for name, length in features.items()}
    params = models.parameter_shapes(config)
    compiled = jax.jit(lambda p, b: model.apply({"params": p}, b)).lower(params, batch).compile()
    counted = compiled.cost_analysis()["flops"] / 4
    assert sum(flops.forward(config, features).values()) == pytest.approx(counted, rel=0.05)


def test_a_frozen_encoder_costs_a_third():
    config = tiny.config(decoder_layers=2, tie_head=True)
    forward = flops.forward(config, SEQ2SEQ)
    everything = flops.training(config, SEQ2SEQ, lambda name: True)
    frozen = flops.training(config, SEQ2SEQ, lambda name: name == "decoder")
    assert everything == {part: 3 * cost for part, cost in forward.items()}
    assert frozen["encoder"] == forward["encoder"]
    assert frozen["decoder"] == 3 * forward["decoder"]
    assert (
        frozen["head"] == forward["head"] * 2
    )  # tied to the frozen table: no gradient of its weights


def test_an_encoder_by_hand():
    """Per layer and token: 8 D^2 for q, k, v and output, 4 S D for scores and mixing, 4 D F."""
    config = tiny.config(decoder_layers=0)
    d, f, s = config.hidden_size, config.mlp_size, 32
    expected = config.encoder_layers * s * (8 * d * d + 4 * s * d + 4 * d * f)
    assert flops.forward(config, MLM)["encoder"] == expected
    assert flops.forward(config, MLM)["head"] == 2 * 5 * d * (d + config.vocab_size)
