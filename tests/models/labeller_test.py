"""The labeller against NumPy; its loss, its gradients, its freezing, its meshes."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import models, tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Loss, Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import Head, Labeller
from seqrecipes.training.step import loss_sums, make_eval_step
from tests.models import labels, oracle, tiny
from tests.training import harness

DEVICES = 8


def numpy_logits(batch: tiny.Arrays, params: Any, model: Labeller) -> dict[str, list[np.ndarray]]:
    """Logits of every example and head, one state at a time."""
    found: dict[str, list[np.ndarray]] = {head.name: [] for head in model.shapes}
    for row, tokens in enumerate(batch["encoder_input_tokens"]):
        states = oracle.encode(tokens, params, model.config)[-1]
        for head in model.shapes:
            read = [0] if head.reads == "first" else batch["word_positions"][row]
            own, rows = params["heads"][head.name], []
            for position in read:
                x = states[position]
                for layer in range(len(head.hidden)):
                    dense = own[f"hidden_{layer}"]
                    x = oracle.gelu(x @ dense["kernel"] + dense["bias"])
                rows.append(x @ own["output"]["kernel"] + own["output"]["bias"])
            found[head.name].append(np.stack(rows))
    return found


def numpy_losses(
    batch: tiny.Arrays, logits: dict[str, list[np.ndarray]], model: Labeller
) -> list[float]:
    """Of every target of every head."""
    losses = []
    for head in model.shapes:
        for rows, targets in zip(logits[head.name], batch[head.targets], strict=True):
            for scores, target in zip(rows, targets, strict=True):
                if target >= 0:
                    losses.append(np.log(np.exp(scores).sum()) - scores[target])
    return losses


@pytest.mark.parametrize(
    ("heads", "norm"),
    [(labels.HEADS, "pre"), (labels.HEADS[:1], "post"), (labels.HEADS[1:], "pre")],
)
def test_logits_and_joint_loss_equal_numpy(heads: tuple[Head, ...], norm: str) -> None:
    model = labels.labeller(heads, dtype="float64", norm=norm)
    batch, params = labels.batch(model), tiny.random_params(model)
    expected = numpy_logits(batch, params, model)
    losses = numpy_losses(batch, expected, model)
    with jax.enable_x64(True):

        @jax.jit
        def compute(p: Any) -> Any:
            return model.apply({"params": p}, batch), make_eval_step(model, 4)(p, batch)

        logits, sums = compute(params)
    assert logits.keys() == {head.name for head in heads}
    for name, values in logits.items():
        np.testing.assert_allclose(values, np.stack(expected[name]), rtol=0, atol=1e-10)
    assert int(sums.tokens) == len(losses)
    assert float(sums.loss) == pytest.approx(sum(losses), rel=1e-12)
    right = [
        scores.argmax() == target
        for head in heads
        for rows, targets in zip(expected[head.name], batch[head.targets], strict=True)
        for scores, target in zip(rows, targets, strict=True)
        if target >= 0
    ]
    assert int(sums.correct) == sum(right)


def test_every_target_has_the_same_weight() -> None:
    """A step divides once, by labels and tags together."""
    model = labels.labeller()
    batch, params = labels.batch(model), tiny.random_params(model, dtype="float32")
    losses = numpy_losses(batch, numpy_logits(batch, params, model), model)
    span = harness.place(params, (Phase(1),))[0]
    adamw = AdamW(warmup_steps=0)
    state = harness.enter_phase(harness.fresh_state(params), span, adamw)
    step = harness.compiled_step(model, adamw, span, total_steps=1, micro_batches=2)
    _, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    tokens = np.sum(batch["encoder_input_tokens"] != tiny.PAD)
    assert float(metrics["tokens"]) == tokens


@jax.jit
@jax.grad
def gradient(params: Any, batch: tiny.Arrays) -> Any:
    return loss_sums(labels.labeller(), params, batch, None, None, 4).objective


def gradients(params: Any, batch: tiny.Arrays) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in tree.flatten(gradient(params, batch)).items()}


def test_gradients_are_where_targets_are() -> None:
    model = labels.labeller()
    batch, params = labels.batch(model), tiny.random_params(model, dtype="float32")
    none = {"word_labels": np.full_like(batch["word_labels"], -1)}
    found = gradients(params, batch | none)
    for path, gradient in found.items():
        if path.startswith("heads/words"):
            assert not gradient.any(), path
        elif path.startswith("heads/label"):
            assert gradient.any(), path
    # A word without a label says nothing, wherever it stands.
    both = gradients(params, batch)
    moved = np.where(batch["word_labels"] < 0, 3, batch["word_positions"]).astype(np.int32)
    elsewhere = gradients(params, batch | {"word_positions": moved})
    for path, gradient in both.items():
        assert gradient.any(), path
        np.testing.assert_allclose(elsewhere[path], gradient, atol=1e-6, err_msg=path)


def test_only_tokens_that_occur_move_the_table() -> None:
    model = labels.labeller()
    batch, params = labels.batch(model), tiny.random_params(model, dtype="float32")
    rows = np.abs(gradients(params, batch)["token_embedding/embedding"]).sum(axis=1) > 0
    seen = set(np.unique(batch["encoder_input_tokens"]).tolist()) - {tiny.PAD}
    assert set(np.flatnonzero(rows).tolist()) == seen


def test_the_encoder_is_that_of_the_other_models() -> None:
    ours = tree.flatten(models.shapes(labels.labeller()))
    for layers in (0, 2):
        theirs = tree.flatten(models.parameter_shapes(tiny.config(decoder_layers=layers)))
        for path, leaf in ours.items():
            if not path.startswith("heads/"):
                assert theirs[path].shape == leaf.shape, path
    heads = {path: leaf.shape for path, leaf in ours.items() if path.startswith("heads/")}
    assert heads == {
        "heads/label/hidden_0/kernel": (16, 12),
        "heads/label/hidden_0/bias": (12,),
        "heads/label/hidden_1/kernel": (12, 10),
        "heads/label/hidden_1/bias": (10,),
        "heads/label/output/kernel": (10, 3),
        "heads/label/output/bias": (3,),
        "heads/words/hidden_0/kernel": (16, 14),
        "heads/words/hidden_0/bias": (14,),
        "heads/words/output/kernel": (14, 5),
        "heads/words/output/bias": (5,),
    }


def test_dropout_comes_before_each_dense_layer_of_a_head() -> None:
    """Without dropout in the encoder: a head of h hidden layers drops h + 1 times."""
    params = tiny.random_params(labels.labeller(), dtype="float32")
    batch = labels.batch(labels.labeller())
    ids, key = np.arange(4), jax.random.key(0)

    def logits(rate: float) -> dict[str, np.ndarray]:
        model = labels.labeller(dropout=rate)
        found: Any = model.apply(
            {"params": params},
            batch,
            ids,
            encoder_dropout=False,
            method="projections",
            rngs={"dropout": key},
        )
        return {name: np.asarray(each.states) for name, each in found.items()}

    kept, dropped = logits(0.0), logits(0.5)
    for name, states in dropped.items():
        zeros = (states == 0).mean()
        assert 0.3 < zeros < 0.7, name  # before the output
        scaled = states[states != 0] / kept[name][states != 0]
        assert not np.allclose(scaled, 2.0, rtol=1e-3), "what comes before was not dropped"

    def calls(rate: float) -> int:
        jaxpr = jax.make_jaxpr(
            lambda p: labels.labeller(dropout=rate).apply(
                {"params": p},
                batch,
                ids,
                encoder_dropout=False,
                rngs={"dropout": key},
                method="projections",
            )
        )(params)
        return str(jaxpr).count("custom_vjp_call[")

    assert calls(0.5) - calls(0.0) == 3 + 2


FREEZE = ("token_embedding",)
ADAMW = AdamW(peak=1e-2, warmup_steps=1, floor=5e-3)


@functools.cache
def trained(partitioning: Partitioning, devices: int) -> harness.Result:
    model = labels.labeller(dropout=0.1)
    mesh = partitioning.mesh(jax.devices()[:devices]) if devices else None
    batch = labels.batch(model, rows=8)
    return harness.run(model, batch, [Phase(3, FREEZE)], ADAMW, partitioning, mesh=mesh, tile=4)


def test_a_frozen_table_stays_bit_for_bit_and_has_no_moments() -> None:
    result = trained(Partitioning(), 0)
    model = labels.labeller(dropout=0.1)
    before = tree.flatten(harness.initial(model))
    for path, value in result.ends[0].items():
        if path.startswith(FREEZE):
            np.testing.assert_array_equal(value, before[path])
        elif "attention/key/bias" not in path:
            assert not np.array_equal(value, before[path]), path
    held = result.state.optimizer["0"].mu
    assert sorted(held) == sorted(path for path in before if not path.startswith(FREEZE))


@pytest.mark.parametrize(
    "partitioning",
    [
        Partitioning(micro_batches=2),
        Partitioning(fsdp=2, tensor=2),
    ],
)
def test_a_mesh_changes_nothing(partitioning: Partitioning) -> None:
    """Numbers of labels that no axis divides: 3 and 5."""
    one, other = trained(Partitioning(), 0), trained(partitioning, 4)
    for ours, theirs in zip(one.metrics, other.metrics, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)
    for path, value in one.ends[0].items():
        np.testing.assert_allclose(other.ends[0][path], value, atol=2e-5, err_msg=path)


def test_it_memorises_a_batch() -> None:
    model = labels.labeller(hidden_size=32, mlp_size=64)
    batch = labels.batch(model, rows=8)
    adamw = AdamW(peak=1e-2, warmup_steps=10, floor=1e-3, weight_decay=0.0)
    params = harness.initial(model)
    span = harness.place(params, (Phase(120, FREEZE),))[0]
    state = harness.enter_phase(harness.fresh_state(params), span, adamw)
    step = harness.compiled_step(model, adamw, span, total_steps=120, minimised=Loss())
    for _ in range(120):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 0.05
    assert float(metrics["accuracy"]) == 1.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"labels": 0}, "Head.labels"),
        ({"reads": "last"}, "Head.reads"),
        ({"hidden": (4, 0)}, "Head.hidden[1]"),
    ],
)
def test_heads_that_cannot_be_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Head(**({"name": "label", "labels": 2} | fields))
    assert caught.value.field == field
