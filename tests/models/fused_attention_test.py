"""Cross-attention to all encoder layers at once: what it reads, its gradient, what it keeps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.models import Seq2Seq, build, init_params
from seqrecipes.models.encoder import real_lengths
from seqrecipes.models.fused_attention import Mix, dot_scores, layer_scores, mix_layers
from seqrecipes.models.layers import Attention
from tests.models import oracle, tiny

# No two sizes alike, so that a shape tells what an array holds.
LAYERS, ROWS, SOURCE, TARGET, HEADS, HEAD, WIDTH = 5, 4, 13, 7, 2, 11, 22
SIZES: dict[str, Any] = {"encoder_layers": LAYERS, "decoder_layers": 3, "hidden_size": WIDTH}


def project(params: Any, states_BxSxD: Any) -> Any:
    return jnp.einsum("bsd,dhk->bshk", states_BxSxD, params["kernel"]) + params["bias"]


def operands(dtype: Any = np.float64) -> dict[str, Any]:
    """Random queries, parameters and states, and weights of source tokens; layers differ."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    keys, values = (
        {"kernel": 0.3 * normal(WIDTH, HEADS, HEAD), "bias": normal(HEADS, HEAD)} for _ in range(2)
    )
    return {
        "query": 0.6 * normal(ROWS, TARGET, HEADS, HEAD),
        "keys": keys,
        "values": values,
        "states": normal(LAYERS, ROWS, SOURCE, WIDTH),
        "weights": np.abs(normal(ROWS, HEADS, TARGET, SOURCE)),
    }


def streamed(x: dict[str, Any]) -> tuple[Any, Any]:
    """Scores [B, H, T, S] and what the weights make of the values [B, T, H, K]."""
    score, log_total = layer_scores(project, x["query"], x["keys"], x["states"])
    mix = Mix(x["query"], x["keys"], x["values"], x["weights"], log_total)
    return score, mix_layers(project, mix, x["states"])


def naive(x: dict[str, Any]) -> tuple[Any, Any]:
    """The same with everything of all layers at once."""
    keys, values = (
        jax.vmap(functools.partial(project, x[name]))(x["states"]) for name in ("keys", "values")
    )
    scores = jnp.einsum("bthk,lbshk->lbhts", x["query"], keys)
    layer_weights = jax.nn.softmax(scores, axis=0)
    mixed = jnp.einsum("bhts,lbhts,lbshk->bthk", x["weights"], layer_weights, values)
    return jnp.sum(layer_weights * scores, axis=0), mixed


def test_scores_and_mixtures_and_their_gradients_are_those_of_the_definition() -> None:
    with jax.enable_x64(True):
        x = operands()
        found, back = jax.vjp(streamed, x)
        expected, naive_back = jax.vjp(naive, x)
        rng = np.random.default_rng(1)
        along = tuple(rng.standard_normal(part.shape) for part in expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
        gradients = tree.flatten(naive_back(along)[0])
        assert len(gradients) == 7
        for path, value in tree.flatten(back(along)[0]).items():
            assert np.abs(gradients[path]).max() > 0.1, path
            np.testing.assert_allclose(value, gradients[path], rtol=0, atol=1e-11, err_msg=path)


def test_scores_that_exponentials_cannot_hold() -> None:
    x = operands(np.float32)
    x["query"] *= 300.0
    keys = jnp.stack([project(x["keys"], states) for states in x["states"]])
    scores = np.asarray(jax.vmap(functools.partial(dot_scores, x["query"]))(keys))
    # exp overflows at 88; the first layer wins here, the last one there.
    assert len(np.unique(scores.argmax(axis=0))) == LAYERS
    assert np.median(scores.max(axis=0)) > 200
    apart = np.sort(scores, axis=0)
    alone = apart[-1] - apart[-2] > 30
    assert alone.mean() > 0.5
    found, log_total = layer_scores(project, x["query"], x["keys"], x["states"])
    for part in (found, log_total):
        assert np.all(np.isfinite(part))
        np.testing.assert_allclose(part[alone], apart[-1][alone], rtol=1e-5, atol=1e-3)
    gradient = jax.grad(lambda y: sum(map(jnp.sum, streamed(y))))(x)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def cross_attention(memory: Any, params: Any, **overrides: Any) -> tuple[Any, Any, Any]:
    """What three positions read of a memory with padding; the positions, and what is allowed."""
    config = tiny.config(**overrides)
    x = np.random.default_rng(2).standard_normal((2, 3, 16)).astype(np.float32)
    lengths = jnp.asarray([7, 4])
    allowed = np.arange(7) < np.array([7, 4])[:, None]
    return Attention(config).apply({"params": params}, x, memory, lengths, None), x, allowed


def attention_params(seed: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    parts: dict[str, Any] = {
        name: {"kernel": rng.standard_normal((16, 2, 8)), "bias": rng.standard_normal((2, 8))}
        for name in ("query", "key", "value")
    }
    parts["output"] = {"kernel": rng.standard_normal((2, 8, 16)), "bias": rng.standard_normal(16)}
    return jax.tree.map(lambda leaf: (0.4 * leaf).astype(np.float32), parts)


def layer_states(layers: int = 5) -> np.ndarray:
    states = np.random.default_rng(4).standard_normal((layers, 2, 7, 16))
    return states.astype(np.float32)


def test_every_head_and_position_reads_a_mixture_of_its_own() -> None:
    memory, params = layer_states(), attention_params()
    found, x, allowed = cross_attention(memory, params)
    for row in range(2):
        expected = oracle.attention(x[row], memory[:, row], np.tile(allowed[row], (3, 1)), params)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=5e-6)


def test_one_layer_is_standard_cross_attention() -> None:
    memory, params = layer_states(1), attention_params()
    found, expected = (cross_attention(states, params)[0] for states in (memory, memory[0]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_queries_of_zero_read_the_mean_of_the_layers() -> None:
    memory, params = layer_states(), attention_params()
    params["query"] = jax.tree.map(np.zeros_like, params["query"])
    found, expected = (
        cross_attention(states, params)[0] for states in (memory, memory.mean(axis=0))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_long_queries_read_the_layer_that_they_point_at() -> None:
    memory, params = layer_states(), attention_params()
    chosen = np.random.default_rng(5).integers(0, 5, (2, 7))
    # Every query points along column 0, which alone tells the layers of a token apart.
    memory[..., 0] = 50.0 * (np.arange(5)[:, None, None] == chosen)
    params["query"] = {"kernel": np.zeros((16, 2, 8), np.float32), "bias": np.eye(2, 8) * 50}
    kernel = np.zeros((16, 2, 8), np.float32)
    kernel[0] = np.eye(2, 8)
    params["query"]["bias"][1] = 50 * np.eye(8)[1]
    params["key"]["kernel"] = kernel
    pointed = np.take_along_axis(memory, chosen[None, :, :, None], axis=0)[0]
    found, expected = (cross_attention(states, params)[0] for states in (memory, pointed))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_dropout_falls_on_source_tokens_with_all_their_layers() -> None:
    params, rate = attention_params(), 0.5
    config = tiny.config(attention_dropout=rate)
    x = np.random.default_rng(2).standard_normal((2, 3, 16)).astype(np.float32)
    ids = jnp.arange(2)

    def read(memory: Any) -> Any:
        return Attention(config).apply(
            {"params": params}, x, memory, None, ids, rngs={"dropout": jax.random.key(0)}
        )

    # Layers alike: the mixture is the layer, and the tokens that are left are the same.
    states = layer_states(1)
    np.testing.assert_allclose(
        read(np.repeat(states, 3, axis=0)), read(states[0]), rtol=0, atol=5e-6
    )


def test_parameters_are_those_without_fusion() -> None:
    config = tiny.config(attention_fusion="decoder_states")
    plain, leaves = (
        tree.flatten(jax.jit(functools.partial(init_params, each, 0))())
        for each in (tiny.config(), config)
    )
    assert leaves.keys() == plain.keys()
    for path, value in plain.items():
        np.testing.assert_array_equal(leaves[path], value, err_msg=path)


def shapes_in(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Of all arrays that a program makes, the programs inside it included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


@pytest.mark.parametrize("remat", ["none", "dots", "context", "full"])
def test_keys_values_and_scores_of_all_layers_never_exist_together(remat: str) -> None:
    config = tiny.config(**SIZES, attention_fusion="decoder_states", remat=remat)
    model = build(config)
    batch = tiny.batch(config, ROWS, source=SOURCE, target=TARGET)
    lengths = real_lengths(batch["encoder_input_tokens"], tiny.PAD)

    def decode(params: Any, states: Any) -> Any:
        def logits(m: Seq2Seq, tokens: Any) -> Any:
            return m.logits(m.decoder(m.token_embedding(tokens), states, lengths, None)).sum()

        return model.apply({"params": params}, batch["decoder_input_tokens"], method=logits)

    states = jax.ShapeDtypeStruct((LAYERS, ROWS, SOURCE, WIDTH), jnp.float32)
    step = jax.make_jaxpr(jax.grad(decode, argnums=(0, 1)))(tiny.shapes(model), states)
    shapes = set(shapes_in(step.jaxpr))
    # Of one layer they do.
    assert {(ROWS, SOURCE, HEADS, HEAD), (ROWS, HEADS, TARGET, SOURCE)} <= shapes
    assert {shape for shape in shapes if {LAYERS, SOURCE} <= set(shape)} == {states.shape}
