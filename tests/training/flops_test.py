"""Analytic FLOPs against XLA's own count of the compiled step, and against hand counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from seqrecipes import models, tree
from seqrecipes.config.recipe import Phase
from seqrecipes.models import config as model_config
from seqrecipes.training import flops, phases, slices
from seqrecipes.training.step import loss_sums, split_params
from tests.models import tiny

SEQ2SEQ = {"encoder_input_tokens": 24, "decoder_input_tokens": 32, "decoder_target_tokens": 32}
MLM = {"encoder_input_tokens": 32, "masked_positions": 5, "masked_targets": 5}
FROZEN = ("encoder", "token_embedding")
BELOW = ("encoder/embedding", "token_embedding")


def wide(**changes) -> models.ModelConfig:
    """Wide enough that matrix products dominate; unrolled, as XLA counts a loop's body once."""
    sizes = {"hidden_size": 512, "mlp_size": 2048, "num_heads": 4, "vocab_size": 2048}
    depth = {"encoder_layers": 2, "decoder_layers": 1, "max_positions": 32, "scan_layers": False}
    return tiny.config(**(sizes | depth | changes))


@pytest.mark.parametrize(
    ("changes", "freeze", "layers"),
    [
        ({"decoder_layers": 0}, (), 0),
        ({"decoder_layers": 0, "tie_head": False}, (), 0),
        ({"decoder_layers": 0, "tie_head": True}, FROZEN, 0),
        ({}, (), 0),
        ({"encoder_layers": 3, "tie_head": False}, BELOW, 2),
        ({"encoder_layers": 3, "decoder_layers": 0, "tie_head": False}, BELOW, 1),
        ({"decoder_layers": 3}, (), 0),
        ({"tie_head": False}, FROZEN, 0),
        ({"tie_head": True}, FROZEN, 0),
        ({"tie_head": False}, ("decoder", "lm_head"), 0),
        ({"tie_head": False}, ("encoder/stack", "decoder/stack"), 0),
        ({"tie_head": False, "attention_fusion": "per_layer"}, FROZEN, 0),
        ({"tie_head": False, "attention_fusion": "shared"}, FROZEN, 0),
    ],
)
def test_a_step_costs_what_xla_counts(changes, freeze, layers):
    config = wide(**changes)
    features = SEQ2SEQ if config.decoder_layers else MLM
    model = models.build(config)
    shapes = models.parameter_shapes(config)
    phase = Phase(1, freeze, frozen_encoder_layers=layers)
    (span,) = phases.spans([phase], tree.flatten(shapes))
    batch = {name: jnp.ones((4, length), jnp.int32) for name, length in features.items()}

    def loss(trainable, frozen, batch):
        params = tree.unflatten(slices.join(trainable | frozen))
        sums = loss_sums(model, params, batch, None, None, 32, frozen_encoder_layers=layers)
        return sums.objective

    parts = jax.eval_shape(lambda params: split_params(params, span), shapes)
    compiled = jax.jit(jax.grad(loss)).lower(*parts, batch).compile()
    counted = compiled.cost_analysis()["flops"] / 4
    by_part = flops.training(config, features, span.cohorts, layers)
    assert sum(by_part.values()) == pytest.approx(counted, rel=0.04)


@pytest.mark.parametrize("freeze", [(), ("token_embedding",), FROZEN, ("encoder", "heads/words")])
def test_a_labellers_step_costs_what_xla_counts(freeze):
    heads = models.Head("label", 200, (256, 384)), models.Head("words", 300, (512,), "words")
    model = models.Labeller(wide(decoder_layers=0), heads)
    features = {"encoder_input_tokens": 32, "label": 1, "word_positions": 24, "word_labels": 24}
    shapes = models.shapes(model)
    (span,) = phases.spans([Phase(1, freeze)], tree.flatten(shapes))
    batch = {name: jnp.ones((4, length), jnp.int32) for name, length in features.items()}

    def loss(trainable, frozen, batch):
        params = tree.unflatten(trainable | frozen)
        return loss_sums(model, params, batch, None, None, 32).objective

    parts = jax.eval_shape(lambda params: split_params(params, span), shapes)
    compiled = jax.jit(jax.grad(loss)).lower(*parts, batch).compile()
    by_part = flops.training(model.config, features, span.cohorts, heads=heads)
    assert sum(by_part.values()) == pytest.approx(compiled.cost_analysis()["flops"] / 4, rel=0.04)
    if not freeze:
        words = 2 * 24 * (512 * 512 + 512 * 300)
        label = 2 * (512 * 256 + 256 * 384 + 384 * 200)
        assert by_part["head"] == 3 * (words + label)


@pytest.mark.parametrize(("decoder_layers", "features"), [(0, MLM), (1, SEQ2SEQ)])
def test_the_forward_pass_costs_what_xla_counts(decoder_layers, features):
    config = wide(decoder_layers=decoder_layers)
    model = models.build(config)
    batch = {name: jnp.ones((4, length), jnp.int32) for name, length in features.items()}
    params = models.parameter_shapes(config)
    compiled = jax.jit(lambda p, b: model.apply({"params": p}, b)).lower(params, batch).compile()
    counted = compiled.cost_analysis()["flops"] / 4
    assert sum(flops.forward(config, features).values()) == pytest.approx(counted, rel=0.04)


def test_a_frozen_encoder_costs_a_third():
    config = tiny.config(decoder_layers=2, tie_head=True)
    paths = set(tree.flatten(models.parameter_shapes(config)))
    forward = flops.forward(config, SEQ2SEQ)
    everything = flops.training(config, SEQ2SEQ, paths)
    decoder = {path for path in paths if path.startswith("decoder")}
    frozen = flops.training(config, SEQ2SEQ, decoder)
    assert everything == {part: 3 * cost for part, cost in forward.items()}
    assert frozen["encoder"] == forward["encoder"]
    # No gradient of the memory: keys and values are projected from 24 source tokens.
    memory = 2 * 4 * config.hidden_size**2 * 24
    assert frozen["decoder"] == 3 * forward["decoder"] - memory
    # Tied to the frozen table: no gradient of its weights.
    assert frozen["head"] == 2 * forward["head"]


def test_an_encoder_by_hand():
    """Per layer and token: 8 D^2 for q, k, v and output, 4 S D for scores and mixing, 4 D F."""
    config = tiny.config(decoder_layers=0)
    d, f, s = config.hidden_size, config.mlp_size, 32
    expected = config.encoder_layers * s * (8 * d * d + 4 * s * d + 4 * d * f)
    assert flops.forward(config, MLM)["encoder"] == expected
    assert flops.forward(config, MLM)["head"] == 2 * 5 * d * (d + config.vocab_size)


def test_frozen_lower_layers_cost_a_third_of_trained_ones():
    config = tiny.config(encoder_layers=4, decoder_layers=0)
    paths = tree.flatten(models.parameter_shapes(config))
    upper = [path for path in paths if not path.startswith(("token", "encoder/embedding"))]
    layer = flops.forward(config, MLM)["encoder"] / 4
    assert flops.training(config, MLM, upper, 3)["encoder"] == 3 * layer + 3 * layer
    assert flops.training(config, MLM, upper)["encoder"] == 4 * 3 * layer


def test_the_unit_of_compute_is_the_papers():
    """500k updates of `roberta-12e` on 2048 x 512 tokens are 5 TU (Soltan et al. 2023, Table 1)."""
    config = model_config.load("configs/roberta_12e.py", size="full", vocab_size=100)
    paths = tree.flatten(models.parameter_shapes(config))
    features = {"encoder_input_tokens": 512, "masked_positions": 77, "masked_targets": 77}
    cost = flops.training(config, features, paths)["encoder"] * 2048 * 500_000
    assert cost / flops.TRAINING_UNIT == pytest.approx(5.0, rel=1e-12)


def test_fusion_by_decoder_states_reads_every_layer():
    """Keys, values, scores and mixing once for each encoder layer; all else as it was."""
    plain = tiny.config(encoder_layers=3)
    fused = tiny.config(encoder_layers=3, attention_fusion="decoder_states")
    once, every = flops.forward(plain, SEQ2SEQ), flops.forward(fused, SEQ2SEQ)
    d, source, target = plain.hidden_size, 24, 32
    one = 4 * d * d * source + 4 * d * target * source
    assert every["decoder"] - once["decoder"] == plain.decoder_layers * 2 * one
    assert (every["encoder"], every["head"]) == (once["encoder"], once["head"])
