"""What may depend on what: shown by gradients that are exactly zero, or are not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.models import Model, Seq2Seq, build
from seqrecipes.models.encoder import real_lengths
from seqrecipes.training.step import loss_sums
from tests.models import tiny


def jacobian_norms(states_of: Any, inputs_TxD: jax.Array) -> np.ndarray:
    """[output position, input position]: largest absolute derivative between the two."""
    jacobian = jax.jit(jax.jacrev(states_of))(inputs_TxD)
    return np.asarray(jnp.max(jnp.abs(jacobian), axis=(1, 3)))


@pytest.mark.parametrize(
    ("norm", "fusion"),
    [
        ("pre", "none"),
        ("post", "shared"),
        ("pre", "per_layer"),
        ("pre", "decoder_states"),
    ],
)
def test_decoder_logits_have_exactly_no_gradient_from_later_inputs(norm: str, fusion: str) -> None:
    config = tiny.config(norm=norm, attention_fusion=fusion)
    model = build(config)
    params = tiny.random_params(model, dtype="float32")
    batch = tiny.batch(config, rows=1)
    memory: Any = model.apply({"params": params}, batch["encoder_input_tokens"], method="encode")
    lengths = real_lengths(batch["encoder_input_tokens"], tiny.PAD)

    def logits_of(embeddings_TxD: jax.Array) -> jax.Array:
        def decode(m: Seq2Seq, x: jax.Array) -> jax.Array:
            return m.logits(m.decoder(x, memory, lengths, None))

        return model.apply({"params": params}, embeddings_TxD[None], method=decode)[0]

    table = params["token_embedding"]["embedding"]
    norms = jacobian_norms(logits_of, jnp.asarray(table[batch["decoder_input_tokens"][0]]))
    later = np.triu(np.ones_like(norms, bool), k=1)
    assert np.all(norms[later] == 0.0)
    assert np.all(norms[~later] > 0.0)


def test_a_changed_target_token_changes_logits_from_its_own_position_on() -> None:
    config = tiny.config(tie_head=False)
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model, dtype="float32")
    apply = jax.jit(model.apply)
    before = np.asarray(apply({"params": params}, batch))
    for t in range(batch["decoder_input_tokens"].shape[1]):
        changed = batch["decoder_input_tokens"].copy()
        changed[:, t] = np.where(changed[:, t] == 5, 6, 5)
        after = np.asarray(apply({"params": params}, batch | {"decoder_input_tokens": changed}))
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.all(np.any(after[:, t:] != before[:, t:], axis=-1))


@pytest.mark.parametrize("fusion", ["none", "shared", "per_layer", "decoder_states"])
def test_every_source_token_reaches_every_decoder_position(fusion: str) -> None:
    config = tiny.config(attention_fusion=fusion)
    model, batch = build(config), tiny.batch(config, rows=1)
    params = tiny.random_params(model, dtype="float32")
    apply = jax.jit(model.apply)
    before = np.asarray(apply({"params": params}, batch))
    for s in range(batch["encoder_input_tokens"].shape[1]):
        changed = batch["encoder_input_tokens"].copy()
        changed[:, s] = np.where(changed[:, s] == 5, 6, 5)
        after = np.asarray(apply({"params": params}, batch | {"encoder_input_tokens": changed}))
        assert np.all(np.any(after != before, axis=-1))


def test_encoder_looks_both_ways_but_never_at_padding() -> None:
    config = tiny.config(decoder_layers=0)
    model = build(config)
    params = tiny.random_params(model, dtype="float32")
    tokens = jnp.array([[4, 9, 5, 8, tiny.PAD, tiny.PAD]])
    lengths = real_lengths(tokens, tiny.PAD)

    def states_of(embeddings_SxD: jax.Array) -> jax.Array:
        return model.apply(
            {"params": params},
            embeddings_SxD[None],
            method=lambda m, x: m.encoder(x, lengths, None),
        )[0]

    norms = jacobian_norms(
        states_of, jnp.asarray(params["token_embedding"]["embedding"][tokens[0]])
    )
    assert np.all(norms[:4, :4] > 0.0)
    assert np.all(norms[:4, 4:] == 0.0)


def test_encoder_is_order_sensitive() -> None:
    config = tiny.config(decoder_layers=0)
    model = build(config)
    params = tiny.random_params(model, dtype="float32")

    def states(tokens: list[int]) -> np.ndarray:
        return np.asarray(
            model.apply({"params": params}, np.array([tokens], np.int32), method="encode")[0]
        )

    forward, swapped = states([4, 9, 5, 8]), states([9, 4, 5, 8])
    # Without positions the states would move with their tokens.
    assert np.abs(forward[[1, 0, 2, 3]] - swapped).max(axis=1).min() > 1e-3


def loss_and_gradient(
    model: Model, params: Any, batch: tiny.Arrays
) -> tuple[float, float, dict[str, np.ndarray]]:
    def loss(p: Any) -> tuple[jax.Array, jax.Array]:
        sums = loss_sums(model, p, batch, None, None, 4)
        return sums.objective, sums.tokens

    (total, tokens), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return (
        float(total),
        float(tokens),
        {k: np.asarray(v) for k, v in tree.flatten(gradient).items()},
    )


def padded(batch: tiny.Arrays, rows: int, columns: int) -> tiny.Arrays:
    """The batch with rows of padding, and columns of it at the right of every feature."""
    fill = {"masked_positions": 0}
    return {
        name: np.pad(x, ((0, rows), (0, columns)), constant_values=fill.get(name, tiny.PAD))
        for name, x in batch.items()
    }


@pytest.mark.parametrize(
    ("decoder_layers", "norm", "fusion"),
    [
        (0, "pre", "none"),
        (2, "pre", "per_layer"),
        (2, "post", "shared"),
        (2, "pre", "decoder_states"),
    ],
)
def test_padding_changes_neither_loss_nor_gradient(
    decoder_layers: int, norm: str, fusion: str
) -> None:
    config = tiny.config(
        decoder_layers=decoder_layers, attention_fusion=fusion, norm=norm, dtype="float64"
    )
    model, batch = build(config), tiny.batch(config, rows=4)
    params = tiny.random_params(model)
    with jax.enable_x64(True):
        loss, tokens, gradient = loss_and_gradient(model, params, batch)
        large_loss, large_tokens, large_gradient = loss_and_gradient(
            model, params, padded(batch, 2, 5)
        )
    assert tokens == large_tokens == np.sum(batch[model.TARGETS] != tiny.PAD)
    assert large_loss == pytest.approx(loss, rel=1e-12)
    for path, expected in gradient.items():
        np.testing.assert_allclose(large_gradient[path], expected, rtol=0, atol=1e-11, err_msg=path)


def test_padding_embedding_gets_no_gradient_as_an_input() -> None:
    config = tiny.config(tie_head=False, dtype="float64")
    model = build(config)
    batch = padded(tiny.batch(config, rows=4), 0, 2)
    with jax.enable_x64(True):
        _, _, gradient = loss_and_gradient(model, tiny.random_params(model), batch)
    table = gradient["token_embedding/embedding"]
    assert np.all(table[tiny.PAD] == 0.0)
    seen = np.unique(batch["encoder_input_tokens"])
    assert np.all(np.any(table[seen[seen != tiny.PAD]] != 0.0, axis=1))
