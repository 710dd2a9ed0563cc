"""A frozen encoder with dropout, as by default, and computed as at inference."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.models import ModelConfig, Seq2Seq, build
from seqrecipes.models.encoder import Encoder, real_lengths
from seqrecipes.training.loss import cross_entropy
from seqrecipes.training.step import enter_phase
from tests.models import tiny
from tests.training import harness

FUSIONS = ["none", "shared", "per_layer"]
STEPS = 4
SEED = 1


def config(**overrides: Any) -> ModelConfig:
    return tiny.config(**{"dropout": 0.3, "attention_dropout": 0.2, "tie_head": False} | overrides)


def ids_of(batch: tiny.Arrays) -> Any:
    return jnp.arange(len(batch["encoder_input_tokens"]))


def step_key(step: int) -> Any:
    return jax.random.fold_in(jax.random.key(SEED), step)


def of_step(model: Any, params: Any, batch: tiny.Arrays, step: int, encoder_dropout: bool) -> Any:
    """(states that the encoder gave, hidden states of the model) in the update of a step."""
    hidden, captured = model.apply(
        {"params": params},
        batch,
        ids_of(batch),
        encoder_dropout=encoder_dropout,
        method="hidden",
        rngs={"dropout": step_key(step)},
        capture_intermediates=lambda module, _: isinstance(module, Encoder),
        mutable=["intermediates"],
    )
    (states,) = captured["intermediates"]["encoder"]["__call__"]
    return states, hidden


def after_encoder(module: Seq2Seq, memory: Any, batch: tiny.Arrays) -> Any:
    """Decoder states over a memory that was computed elsewhere."""
    lengths = real_lengths(batch["encoder_input_tokens"], tiny.PAD)
    embedded = module.token_embedding(batch["decoder_input_tokens"])
    return module.decoder(embedded, memory, lengths, ids_of(batch))


@pytest.mark.parametrize(
    "overrides", [{"attention_fusion": f} for f in FUSIONS] + [{"norm": "post"}]
)
def test_the_encoder_has_no_dropout_and_the_decoder_keeps_its_own(overrides: Any) -> None:
    model = build(config(**overrides))
    batch = tiny.batch(model.config)
    params = tiny.random_params(model, dtype="float32")
    run = jax.jit(functools.partial(of_step, model), static_argnums=3)
    silent, later_silent = run(params, batch, 0, False), run(params, batch, 1, False)
    noisy, later_noisy = run(params, batch, 0, True), run(params, batch, 1, True)
    encode = jax.jit(functools.partial(model.apply, method="encode"))
    at_inference: Any = encode({"params": params}, batch["encoder_input_tokens"])
    np.testing.assert_array_equal(silent[0], later_silent[0])
    np.testing.assert_allclose(silent[0], at_inference, rtol=1e-5, atol=1e-5)
    for one, other in ((silent[1], later_silent[1]), (noisy[0], later_noisy[0])):
        assert np.mean(np.isclose(one, other)) < 0.1
    assert np.mean(np.isclose(noisy[0], silent[0])) < 0.1

    # The decoder's masks are those that it has beside an encoder with dropout.
    decode = jax.jit(functools.partial(model.apply, method=after_encoder))
    for memory, expected in (silent, noisy):
        hidden: Any = decode({"params": params}, memory, batch, rngs={"dropout": step_key(0)})
        np.testing.assert_allclose(hidden, expected, rtol=1e-5, atol=1e-5)


@functools.cache
def losses(decoder_layers: int, frozen_dropout: bool, micro_batches: int = 1) -> list[float]:
    """Losses of a frozen model's update at several steps, each from the same parameters."""
    model = build(config(decoder_layers=decoder_layers))
    batch = tiny.batch(model.config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    phase = Phase(STEPS, harness.FREEZE, frozen_dropout=frozen_dropout)
    adamw = AdamW(warmup_steps=0)
    (span,) = harness.place(params, (phase,))
    update = harness.compiled_step(
        model, adamw, span, total_steps=STEPS, seed=SEED, micro_batches=micro_batches
    )
    result = []
    for step in range(STEPS):
        state = enter_phase(harness.fresh_state(params), span, adamw)
        _, metrics = update(state.replace(step=jnp.asarray(step, jnp.int32)), batch)
        result.append(float(metrics["loss"]))
    return result


@pytest.mark.parametrize("frozen_dropout", [True, False])
def test_a_step_has_the_dropout_that_its_phase_asks_for(frozen_dropout: bool) -> None:
    model = build(config())
    batch = tiny.batch(model.config, rows=4)
    variables = {"params": tiny.random_params(model, dtype="float32")}

    def mean_loss(module: Seq2Seq, batch: tiny.Arrays) -> Any:
        ids = ids_of(batch) if frozen_dropout else None
        memory = module.encode(batch["encoder_input_tokens"], ids)
        projection = module.projection(after_encoder(module, memory, batch))
        sums = cross_entropy(projection, batch["decoder_target_tokens"], pad_id=tiny.PAD, tile=8)
        return sums.loss / sums.tokens

    apply: Any = jax.jit(functools.partial(model.apply, method=mean_loss))
    expected = [
        float(apply(variables, batch, rngs={"dropout": step_key(step)})) for step in range(STEPS)
    ]
    assert losses(2, frozen_dropout) == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == STEPS


def test_a_frozen_encoder_under_a_head_alone_is_the_same_at_every_step() -> None:
    assert len(set(losses(0, False))) == 1
    assert len(set(losses(0, True))) == STEPS


def test_micro_batches_do_not_show() -> None:
    assert losses(2, False, 2) == pytest.approx(losses(2, False), rel=1e-5)


def test_by_default_the_program_is_the_one_with_dropout() -> None:
    model = build(config(encoder_layers=1, decoder_layers=1))
    batch = tiny.batch(model.config)
    params = tiny.random_params(model, dtype="float32")

    def program(**options: bool) -> str:
        (span,) = harness.place(params, (Phase(1, harness.FREEZE, **options),))
        adamw = AdamW(warmup_steps=0)
        state = enter_phase(harness.fresh_state(params), span, adamw)
        step = harness.compiled_step(model, adamw, span, total_steps=1)
        return step.lower(state, batch).as_text()

    default = program()
    assert default == program(frozen_dropout=True)
    # Fewer random bits are drawn.
    assert len(program(frozen_dropout=False)) < len(default)
