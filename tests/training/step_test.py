"""The update as a whole: accumulation, initial loss, memorising a batch, tied and untied heads."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Loss
from seqrecipes.models import Model, build, config, init_params, random_params
from seqrecipes.training.step import enter_phase, loss_sums, make_eval_step
from tests.models import tiny
from tests.training import harness

FEATURES = {
    "bart_12e12d": ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"),
    "roberta_12e": ("encoder_input_tokens", "masked_positions", "masked_targets"),
}


def entered(params: Any, adamw: AdamW, phases: tuple[Phase, ...] = (Phase(1),)) -> Any:
    placed = harness.place(params, phases)
    return enter_phase(harness.fresh_state(params), placed[0], adamw), placed[0]


def uneven_batch(model_config: config.ModelConfig, rows: int) -> tiny.Arrays:
    """A batch whose rows hold 1, 2, 3, ... targets, so that a mean of means would show."""
    batch = tiny.batch(model_config, rows=rows, source=9, target=8)
    name = "decoder_target_tokens" if model_config.decoder_layers else "masked_targets"
    full = np.random.default_rng(3).integers(4, model_config.vocab_size, batch[name].shape)
    width = full.shape[1]
    counts = 1 + np.arange(rows)[:, None] % width
    return batch | {name: np.where(np.arange(width) < counts, full, tiny.PAD).astype(np.int32)}


def test_micro_batches_equal_one_batch_with_dropout() -> None:
    model_config = tiny.config(
        encoder_layers=1,
        decoder_layers=1,
        dropout=0.2,
        attention_dropout=0.2,
        dtype="float64",
    )
    model, batch = build(model_config), uneven_batch(model_config, rows=8)
    adamw = AdamW(peak=1e-2, warmup_steps=0, floor=1e-3, clip_norm=0.1)
    results = {}
    with jax.enable_x64(True):
        for parts in (1, 4):
            state, span = entered(tiny.random_params(model), adamw, (Phase(3),))
            step = harness.compiled_step(
                model, adamw, span, total_steps=3, micro_batches=parts, tile=3
            )
            for _ in range(2):
                state, metrics = step(state, batch)
            results[parts] = (
                {name: float(value) for name, value in metrics.items()},
                harness.leaves(state),
            )
    assert results[4][0] == pytest.approx(results[1][0], rel=1e-6)
    for path, expected in results[1][1].items():
        np.testing.assert_allclose(results[4][1][path], expected, rtol=1e-6, err_msg=path)


def test_loss_and_gradient_are_divided_once_by_all_target_tokens() -> None:
    model_config = tiny.config(decoder_layers=0)
    model, batch = build(model_config), uneven_batch(model_config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    adamw = AdamW(peak=1e-3, warmup_steps=0, floor=0.0, clip_norm=0.0, beta1=0.0)
    state, span = entered(params, adamw)
    step = harness.compiled_step(model, adamw, span, total_steps=1, micro_batches=2)
    state, metrics = step(state, batch)

    def mean_loss(p: Any) -> jax.Array:
        logits: Any = model.apply({"params": p}, batch)
        rows, places = np.nonzero(batch["masked_targets"] != tiny.PAD)
        targets = batch["masked_targets"][rows, places]
        return -jax.nn.log_softmax(logits)[rows, places, targets].mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(params)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(
        tiny.norm_of(tree.flatten(gradient)), rel=1e-5
    )
    # Without momentum the first moment is the gradient itself.
    for path, expected in tree.flatten(gradient).items():
        np.testing.assert_allclose(
            state.optimizer["0"].mu[path], expected, rtol=1e-4, atol=1e-6, err_msg=path
        )


@pytest.mark.parametrize("decoder_layers", [0, 1])
def test_a_step_minimises_what_is_asked_for_and_reports_the_cross_entropy(
    decoder_layers: int,
) -> None:
    model = build(tiny.config(encoder_layers=1, decoder_layers=decoder_layers))
    batch, params = uneven_batch(model.config, rows=4), tiny.random_params(model, dtype="float32")
    minimised = Loss(label_smoothing=0.2, z_loss=0.05)
    # Without momentum the first moment is the gradient.
    adamw = AdamW(warmup_steps=0, clip_norm=0.0, beta1=0.0)
    state, span = entered(params, adamw)
    step = harness.compiled_step(
        model, adamw, span, total_steps=1, micro_batches=2, minimised=minimised
    )
    state, metrics = step(state, batch)

    def objective(p: Any) -> Any:
        sums = loss_sums(model, p, batch, None, None, 8, minimised=minimised)
        return sums.objective / sums.tokens, sums

    (value, sums), gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    plain = float(sums.loss / sums.tokens)
    assert abs(float(value) - plain) > 0.05
    assert float(metrics["loss"]) == pytest.approx(plain, rel=1e-5)
    for path, expected in tree.flatten(gradient).items():
        found = state.optimizer["0"].mu[path]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6, err_msg=path)


def test_metrics_count_tokens_and_padding() -> None:
    model_config = tiny.config()
    model = build(model_config)
    pad = tiny.PAD
    batch = {
        "encoder_input_tokens": np.array([[4, 5, 6, pad], [4, pad, pad, pad]], np.int32),
        "decoder_input_tokens": np.array([[2, 5, 6, 7], [2, 9, 9, pad]], np.int32),
        "decoder_target_tokens": np.array([[5, 6, 7, 8], [9, 9, pad, pad]], np.int32),
    }
    adamw = AdamW(warmup_steps=0)
    state, span = entered(tiny.random_params(model, dtype="float32"), adamw)
    _, metrics = harness.compiled_step(model, adamw, span, total_steps=1)(state, batch)
    assert float(metrics["tokens"]) == 6.0
    assert float(metrics["padding"]) == pytest.approx(1 - (4 + 6) / 16)
    variables = {"params": tiny.random_params(model, dtype="float32")}
    logits = np.asarray(jax.jit(model.apply)(variables, batch))
    real = batch["decoder_target_tokens"] != pad
    hits = (logits.argmax(-1) == batch["decoder_target_tokens"])[real]
    assert float(metrics["accuracy"]) == pytest.approx(hits.mean())
    names = {"loss", "accuracy", "gradient_norm", "learning_rate", "tokens", "padding"}
    assert metrics.keys() == names
    for value in metrics.values():
        assert (value.shape, value.dtype) == ((), np.float32)


def test_tokens_are_those_of_the_text_where_the_batch_says_how_many() -> None:
    """Of span corruption the target is a fifth of the text; nothing else changes."""
    model_config = tiny.config(decoder_layers=0, dtype="float32")
    batch = tiny.batch(model_config, rows=4, source=9, target=8)
    counts = np.array([[31], [7], [0], [4]], np.int32)
    metrics = []
    for given in (batch, batch | {"original_tokens": counts}):
        model, adamw = build(model_config), AdamW(warmup_steps=0)
        state, span = entered(tiny.random_params(model, dtype="float32"), adamw)
        step = harness.compiled_step(model, adamw, span, total_steps=1, micro_batches=2)
        metrics.append(step(state, given)[1])
    assert float(metrics[1].pop("tokens")) == 31 + 7 + 4
    assert float(metrics[0].pop("tokens")) == np.count_nonzero(
        batch["encoder_input_tokens"] != tiny.PAD
    )
    assert metrics[0] == metrics[1]


def test_dropout_differs_between_steps_and_seeds_but_not_between_runs() -> None:
    model_config = tiny.config(decoder_layers=0, dropout=0.3)
    model, batch = build(model_config), tiny.batch(model_config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    adamw = AdamW(warmup_steps=0)

    span = harness.place(params, (Phase(9),))[0]

    @functools.cache
    def compiled(seed: int) -> harness.Step:
        return harness.compiled_step(model, adamw, span, total_steps=9, seed=seed)

    def first_loss(seed: int, at: int) -> float:
        state = enter_phase(harness.fresh_state(params), span, adamw)
        state = state.replace(step=jnp.asarray(at, jnp.int32))
        return float(compiled(seed)(state, batch)[1]["loss"])

    losses = {(seed, at): first_loss(seed, at) for seed in (0, 1) for at in (0, 1)}
    assert len(set(losses.values())) == 4
    assert first_loss(0, 1) == losses[0, 1]


def test_evaluation_is_without_dropout_and_counts_tokens() -> None:
    model_config = tiny.config(decoder_layers=0, dropout=0.5, attention_dropout=0.5)
    model, batch = build(model_config), tiny.batch(model_config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    sums = jax.jit(make_eval_step(model, 2))(params, batch)
    silent = build(dataclasses.replace(model_config, dropout=0.0, attention_dropout=0.0))
    expected = jax.jit(make_eval_step(silent, 8))(params, batch)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)
    assert float(sums.tokens) == np.sum(batch["masked_targets"] != tiny.PAD)


@pytest.mark.parametrize("name", sorted(FEATURES))
@pytest.mark.parametrize("tie_head", [True, False])
def test_initial_loss_is_the_logarithm_of_the_vocabulary(name: str, tie_head: bool) -> None:
    model_config = config.load(
        f"configs/{name}.py",
        size="mini",
        vocab_size=1000,
        overrides={"tie_head": tie_head, "encoder_layers": 2},
    )
    model, batch = build(model_config), tiny.batch(model_config, rows=16, source=24, target=24)
    assert set(batch) == set(FEATURES[name])
    sums = jax.jit(lambda: make_eval_step(model, 8)(random_params(model, 0), batch))()
    assert float(sums.loss / sums.tokens) == pytest.approx(math.log(1000), rel=0.02)


def memorise(model: Model, batch: tiny.Arrays, steps: int) -> list[float]:
    """Losses of training on one batch again and again."""
    adamw = AdamW(peak=3e-3, warmup_steps=10, floor=3e-4, weight_decay=0.0)
    state, span = entered(harness.initial(model), adamw, (Phase(steps),))
    step = harness.compiled_step(model, adamw, span, total_steps=steps)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses


def test_mlm_memorises_a_batch() -> None:
    model_config = tiny.config(
        vocab_size=80, hidden_size=64, mlp_size=128, num_heads=4, decoder_layers=0
    )
    batch = tiny.batch(model_config, rows=8, source=12)
    losses = memorise(build(model_config), batch, 150)
    assert losses[0] > 4.0
    assert losses[-1] < 0.05


def test_seq2seq_memorises_texts_with_deletions() -> None:
    model_config = tiny.config(
        vocab_size=80, hidden_size=64, mlp_size=128, num_heads=4, tie_head=False
    )
    rng = np.random.default_rng(5)
    texts = rng.integers(4, 80, (8, 12)).astype(np.int32)
    # The source is the text without three of its tokens.
    sources = np.stack([np.delete(row, rng.permutation(12)[:3]) for row in texts])
    batch = {
        "encoder_input_tokens": np.pad(sources, ((0, 0), (0, 3)), constant_values=tiny.PAD),
        "decoder_input_tokens": np.pad(texts[:, :-1], ((0, 0), (1, 0)), constant_values=2),
        "decoder_target_tokens": texts,
    }
    losses = memorise(build(model_config), batch, 150)
    assert losses[0] > 4.0
    assert losses[-1] < 0.05


def gradient_of(model: Model, params: Any, batch: tiny.Arrays) -> dict[str, np.ndarray]:
    gradient = jax.jit(jax.grad(lambda p: loss_sums(model, p, batch, None, None, 4).objective))(
        params
    )
    return {path: np.asarray(x) for path, x in tree.flatten(gradient).items()}


@pytest.mark.parametrize(
    ("decoder_layers", "head"), [(0, "mlm_head/projection/embedding"), (1, "lm_head/embedding")]
)
def test_gradient_of_a_tied_table_is_the_sum_of_its_uses(decoder_layers: int, head: str) -> None:
    tied_config = tiny.config(encoder_layers=1, decoder_layers=decoder_layers, dtype="float64")
    tied = build(tied_config)
    untied = build(dataclasses.replace(tied_config, tie_head=False))
    batch, params = tiny.batch(tied_config), tiny.random_params(tied)
    leaves = tree.flatten(params)
    assert head not in leaves
    split = tree.unflatten(leaves | {head: leaves["token_embedding/embedding"].copy()})
    assert set(tree.flatten(split)) == set(tree.flatten(tiny.shapes(untied)))
    with jax.enable_x64(True):
        together, apart = gradient_of(tied, params, batch), gradient_of(untied, split, batch)
    as_input, as_head = apart.pop("token_embedding/embedding"), apart.pop(head)
    assert min(np.abs(as_input).max(), np.abs(as_head).max()) > 1e-3
    np.testing.assert_allclose(
        together.pop("token_embedding/embedding"), as_input + as_head, rtol=0, atol=1e-11
    )
    assert together.keys() == apart.keys()
    for path, expected in apart.items():
        np.testing.assert_allclose(together[path], expected, rtol=0, atol=1e-11, err_msg=path)


def test_untied_head_starts_from_the_table_and_leaves_it() -> None:
    model_config = tiny.config(tie_head=False, encoder_layers=1, decoder_layers=1)
    model, batch = build(model_config), tiny.batch(model_config)
    params = harness.initial(model)
    assert not np.array_equal(
        params["lm_head"]["embedding"], params["token_embedding"]["embedding"]
    )
    params["lm_head"]["embedding"] = jnp.copy(params["token_embedding"]["embedding"])
    adamw = AdamW(warmup_steps=0)
    state, span = entered(params, adamw, (Phase(3),))
    step = harness.compiled_step(model, adamw, span, total_steps=3)
    for _ in range(2):
        # The state is donated: were both one buffer, the second call would be refused.
        state, _ = step(state, batch)
        table = state.params["token_embedding"]["embedding"]
        head = state.params["lm_head"]["embedding"]
        assert table.unsafe_buffer_pointer() != head.unsafe_buffer_pointer()
        assert not np.array_equal(table, head)


def test_parameters_of_the_same_seed_are_the_same() -> None:
    def params(seed: int) -> dict[str, np.ndarray]:
        return tree.flatten(jax.jit(functools.partial(init_params, tiny.config(), seed))())

    first = params(0)
    for path, value in params(0).items():
        np.testing.assert_array_equal(value, first[path], err_msg=path)
    assert any(not np.array_equal(value, first[path]) for path, value in params(1).items())
