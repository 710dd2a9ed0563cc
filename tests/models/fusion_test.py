"""Attention fusion: what one query makes of all encoder layers, and what that costs."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Partitioning
from seqrecipes.models import Seq2Seq, build, init_params
from seqrecipes.models.attention_fusion import fuse_layers, layer_weights
from seqrecipes.models.axes import PARAMETER_AXES
from seqrecipes.models.encoder import real_lengths
from tests.models import oracle, tiny
from tests.training import harness

DEVICES = 8

FUSIONS = ["shared", "per_layer"]
QUERY = {"shared": "decoder/fusion/query", "per_layer": "decoder/stack/layers/fusion/query"}


def states_and_query(dtype: str) -> tuple[jax.Array, jax.Array]:
    """Random states of 5 layers, 2 x 7 tokens of width 16, and a query that tells layers apart."""
    rng = np.random.default_rng(0)
    states = jnp.asarray(rng.standard_normal((5, 2, 7, 16)), dtype)
    return states, jnp.asarray(3 * rng.standard_normal(16), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_a_token_sum_to_one_in_float32(dtype: str) -> None:
    states, query = states_and_query(dtype)
    weights = layer_weights(query, states)
    assert (weights.shape, weights.dtype) == ((5, 2, 7), jnp.float32)
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, rtol=0, atol=1e-6)
    # Neither uniform, nor alike for all tokens, nor on one layer alone.
    assert np.std(weights, axis=0).min() > 0.05
    assert np.std(weights, axis=(1, 2)).min() > 0.05
    assert weights.max() < 0.999


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_the_sum_over_layers_is_rounded_once(dtype: str, rounding: float) -> None:
    states, query = states_and_query(dtype)
    fused = fuse_layers(query, states)
    assert fused.dtype == dtype
    exact = np.asarray(states, np.float64)
    expected = np.stack(
        [oracle.fuse(exact[:, row], np.asarray(query, np.float64)) for row in range(2)]
    )
    # bfloat16: half a unit in the last place, and a little for the sum in float32 before it.
    np.testing.assert_allclose(
        np.asarray(fused, np.float64), expected, rtol=1.01 * rounding, atol=2e-6
    )


def test_a_zero_query_takes_the_mean_of_the_layers() -> None:
    states, query = states_and_query("float32")
    fused = fuse_layers(jnp.zeros_like(query), states)
    np.testing.assert_allclose(fused, states.mean(axis=0), rtol=0, atol=5e-7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_query_takes_the_layer_that_it_points_at(dtype: str) -> None:
    states, query = states_and_query(dtype)
    # Column 0 alone decides: another layer for each token.
    chosen = np.random.default_rng(1).integers(0, 5, (2, 7))
    pointed = np.arange(5)[:, None, None] == chosen
    states = states.at[..., 0].set(jnp.asarray(pointed, dtype))
    fused = fuse_layers(jnp.zeros_like(query).at[0].set(1000.0), states)
    expected = np.take_along_axis(np.asarray(states), chosen[None, :, :, None], axis=0)[0]
    np.testing.assert_array_equal(fused, expected)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_over_one_encoder_layer_it_is_standard_cross_attention(fusion: str) -> None:
    config = tiny.config(encoder_layers=1, attention_fusion=fusion)
    model, plain = build(config), build(tiny.config(encoder_layers=1))
    params, batch = tiny.random_params(model, dtype="float32"), tiny.batch(config)
    leaves = tree.flatten(params)
    assert np.all(leaves.pop(QUERY[fusion]) != 0.0)
    states: Any = model.apply({"params": params}, batch["encoder_input_tokens"], method="encode")
    query = jnp.asarray(tree.flatten(params)[QUERY[fusion]].reshape(-1, 16)[0])
    np.testing.assert_array_equal(fuse_layers(query, states), states[0])
    expected = jax.jit(plain.apply)({"params": tree.unflatten(leaves)}, batch)
    logits = jax.jit(model.apply)({"params": params}, batch)
    # Equal but for the order in which a compiled sum is taken.
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-6)


def test_equal_queries_in_every_layer_are_one_shared_query() -> None:
    shared, own = (build(tiny.config(attention_fusion=fusion)) for fusion in FUSIONS)
    leaves = tree.flatten(tiny.random_params(shared, dtype="float32"))
    batch = tiny.batch(shared.config)
    expected = jax.jit(shared.apply)({"params": tree.unflatten(leaves)}, batch)
    leaves[QUERY["per_layer"]] = np.tile(leaves.pop(QUERY["shared"]), (2, 1))
    logits = jax.jit(own.apply)({"params": tree.unflatten(leaves)}, batch)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "shape", "axes"),
    [("shared", (16,), (None,)), ("per_layer", (3, 16), ("layers", None))],
)
def test_queries_start_at_zero_and_are_all_that_is_new(
    fusion: str, shape: tuple[int, ...], axes: tuple[str | None, ...]
) -> None:
    config = tiny.config(decoder_layers=3, attention_fusion=fusion)
    plain, leaves = (
        tree.flatten(jax.jit(functools.partial(init_params, each, 0))())
        for each in (tiny.config(decoder_layers=3), config)
    )
    assert tree.first_match(PARAMETER_AXES, leaves, field="here")[QUERY[fusion]] == axes
    query = leaves.pop(QUERY[fusion])
    assert query.shape == shape
    assert not np.any(query)
    assert leaves.keys() == plain.keys()
    for path, value in plain.items():
        np.testing.assert_array_equal(leaves[path], value, err_msg=path)


# No two sizes alike, so that a shape tells what an array holds.
SIZES: dict[str, Any] = {
    "encoder_layers": 5,
    "decoder_layers": 3,
    "hidden_size": 22,
    "num_heads": 2,
}
ROWS, SOURCE, TARGET = 4, 13, 7


@pytest.mark.parametrize("fusion", ["none", *FUSIONS, "decoder_states"])
def test_states_of_all_layers_are_stacked_only_for_fusion(fusion: str) -> None:
    config = tiny.config(**SIZES, attention_fusion=fusion)
    model = build(config)
    tokens = tiny.batch(config, ROWS, source=SOURCE, target=TARGET)["encoder_input_tokens"]
    encode = functools.partial(model.apply, method="encode")
    variables = {"params": tiny.shapes(model)}
    stacked = f"f32[5,{ROWS},{SOURCE},22]" in str(jax.make_jaxpr(encode)(variables, tokens))
    assert stacked == (fusion != "none")
    shape = (ROWS, SOURCE, 22) if fusion == "none" else (5, ROWS, SOURCE, 22)
    assert jax.eval_shape(encode, variables, tokens).shape == shape


@pytest.mark.parametrize("remat", ["none", "dots", "context", "full"])
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("fusion", [*FUSIONS, "decoder_states"])
def test_the_backward_pass_keeps_the_encoders_states_once(
    fusion: str, scan_layers: bool, remat: str
) -> None:
    config = tiny.config(**SIZES, attention_fusion=fusion, scan_layers=scan_layers, remat=remat)
    model = build(config)
    batch = tiny.batch(config, ROWS, source=SOURCE, target=TARGET)
    lengths = real_lengths(batch["encoder_input_tokens"], tiny.PAD)

    def decode(params: Any, states: Any) -> Any:
        def logits(m: Seq2Seq, tokens: Any) -> Any:
            return m.logits(m.decoder(m.token_embedding(tokens), states, lengths, None))

        return model.apply({"params": params}, batch["decoder_input_tokens"], method=logits)

    states = jax.ShapeDtypeStruct((5, ROWS, SOURCE, 22), jnp.float32)
    kept = jax.eval_shape(lambda p, x: jax.vjp(decode, p, x)[1], tiny.shapes(model), states)
    # Weights over layers, products with them and stacks of either all have both these axes.
    of_all_layers = [x.shape for x in jax.tree.leaves(kept) if {5, SOURCE} <= set(x.shape)]
    assert of_all_layers == [states.shape]


@functools.cache
def trained(fusion: str, partitioning: Partitioning) -> harness.Result:
    """Two steps above a frozen encoder, one with all parameters; on a mesh the latter alone."""
    config = tiny.config(
        vocab_size=64,
        hidden_size=32,
        mlp_size=64,
        num_heads=4,
        tie_head=False,
        attention_fusion=fusion,
    )
    batch = tiny.batch(config, rows=8, source=12, target=10)
    phases = (Phase(2, harness.FREEZE), Phase(1))
    # A large epsilon keeps Adam's first steps from being the sign of rounding errors.
    adamw = AdamW(peak=1e-2, warmup_steps=1, floor=1e-3, epsilon=1e-3)
    run = functools.partial(harness.run, build(config), batch, phases, adamw, partitioning)
    if partitioning == Partitioning():
        return run()
    # What the first phase trains, the second trains too.
    start = trained(fusion, Partitioning()).states[0]
    return run(mesh=partitioning.mesh(), start=start, only=slice(1, 2))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_queries_train_while_the_encoder_is_frozen_and_after(fusion: str) -> None:
    frozen, free = trained(fusion, Partitioning()).ends
    changed = {path.split("/")[0] for path in free if np.any(free[path] != frozen[path])}
    assert {"encoder", "token_embedding", "decoder"} <= changed
    # They start at zero, one a row.
    assert np.all(np.any(frozen[QUERY[fusion]] != 0.0, axis=-1))
    assert np.all(np.any(free[QUERY[fusion]] != frozen[QUERY[fusion]], axis=-1))


@pytest.mark.parametrize("fusion", ["per_layer", "decoder_states"])
def test_fusion_trains_alike_on_a_mesh(fusion: str) -> None:
    expected = trained(fusion, Partitioning())
    result = trained(fusion, Partitioning(data=2, fsdp=2, tensor=2))
    assert len(result.metrics) == len(result.ends) == 1
    assert result.metrics[0] == pytest.approx(expected.metrics[-1], rel=2e-5)
    for path, value in expected.ends[-1].items():
        np.testing.assert_allclose(result.ends[0][path], value, rtol=0, atol=2e-6, err_msg=path)
