"""Normalisation, residual branches, dropout, and ways of computing that must not matter."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.errors import UserError
from seqrecipes.models import build, init_params
from seqrecipes.models.layers import TransformerLayer, layer_norm
from seqrecipes.models.stack import TransformerStack
from seqrecipes.training.step import loss_sums
from tests.models import oracle, tiny

ZERO_SUBLAYERS = r".*(attention|mlp)/output/(kernel|bias)"


def random_like(shapes: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random leaves by path, with the sub-layers' last matrices and biases at zero."""
    rng = np.random.default_rng(seed)
    return {
        path: np.zeros(leaf.shape, np.float32)
        if re.fullmatch(ZERO_SUBLAYERS, path)
        else (path.endswith("scale") + 0.3 * rng.standard_normal(leaf.shape)).astype(np.float32)
        for path, leaf in tree.flatten(shapes).items()
    }


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_zero_sublayers_leave_the_residual_or_its_layer_norm(norm: str) -> None:
    config = tiny.config(norm=norm)
    layer = TransformerLayer(config)
    x = np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)
    inputs = (x, None, x[:, ::-1], None, None)
    leaves = random_like(jax.eval_shape(layer.init, jax.random.key(0), *inputs)["params"])
    zeroed = [path for path, leaf in leaves.items() if not leaf.any()]
    assert len(zeroed) == 6
    output, _ = layer.apply({"params": tree.unflatten(leaves)}, *inputs)
    if norm == "pre":
        np.testing.assert_array_equal(output, x)
        return
    expected = x.astype(np.float64)
    params = tree.unflatten(leaves)
    for name in ("self_attention_norm", "cross_attention_norm", "mlp_norm"):
        expected = oracle.layer_norm(expected, params[name], config.norm_epsilon)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_zero_sublayers_of_a_pre_norm_stack_leave_its_final_norm() -> None:
    config = tiny.config()
    stack = TransformerStack(config, 3)
    x = np.random.default_rng(1).standard_normal((2, 5, 16)).astype(np.float32)
    inputs = (x, None, None, None, None)
    leaves = random_like(jax.eval_shape(stack.init, jax.random.key(0), *inputs)["params"])
    params = tree.unflatten(leaves)
    output: Any = stack.apply({"params": params}, *inputs)
    expected = oracle.layer_norm(x.astype(np.float64), params["final_norm"], config.norm_epsilon)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 3000.0])
def test_layer_norm_centres_before_it_squares(mean: float) -> None:
    config = tiny.config()
    rng = np.random.default_rng(2)
    # In float32 the mean square of these inputs loses their variance altogether.
    x = (mean + rng.standard_normal((4, 16))).astype(np.float32)
    params = {"scale": rng.standard_normal(16), "bias": rng.standard_normal(16)}
    output: Any = layer_norm(config, "norm").apply({"params": params}, x)
    expected = oracle.layer_norm(x.astype(np.float64), params, config.norm_epsilon)
    np.testing.assert_allclose(output, expected, rtol=0, atol=5e-3 if mean else 1e-5)


def test_layer_norm_of_bfloat16_computes_in_float32() -> None:
    config = tiny.config(dtype="bfloat16")
    x = (10 + np.random.default_rng(3).standard_normal((4, 16))).astype(jnp.bfloat16)
    params = {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}
    output: Any = layer_norm(config, "norm").apply({"params": params}, x)
    assert output.dtype == jnp.bfloat16
    expected = oracle.layer_norm(x.astype(np.float64), params, config.norm_epsilon)
    # Half a unit in the last place of bfloat16, up to values of 4.
    np.testing.assert_allclose(np.asarray(output, np.float64), expected, rtol=0, atol=2**-7)


def test_dropout_differs_between_layers_and_between_sublayers() -> None:
    config = tiny.config(dropout=0.5, hidden_size=64, num_heads=2)
    stack = TransformerStack(config, 2)
    inputs = (jnp.zeros((2, 5, 64)), None, None, None)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), *inputs, None)["params"]
    leaves = {path: np.zeros(x.shape, np.float32) for path, x in tree.flatten(shapes).items()}
    leaves["final_norm/scale"] = np.ones(64, np.float32)
    # The four sub-layers add 1, 2, 4 and 8 where they are not dropped.
    leaves["layers/self_attention/output/bias"] = np.array([[1.0], [2.0]]) * np.ones((2, 64))
    leaves["layers/mlp/output/bias"] = np.array([[4.0], [8.0]]) * np.ones((2, 64))
    output = stack.apply(
        {"params": tree.unflatten(leaves)},
        *inputs,
        jnp.arange(2),
        rngs={"dropout": jax.random.key(0)},
    )
    # Equal masks would leave fewer than the 16 sums in a row; the norm keeps their order.
    assert min(len(np.unique(row.round(4))) for row in np.asarray(output).reshape(-1, 64)) > 12


def test_a_permuted_batch_with_its_ids_gives_permuted_states() -> None:
    config = tiny.config(dropout=0.3, attention_dropout=0.3)
    model, batch = build(config), tiny.batch(config, rows=5)
    params = tiny.random_params(model, dtype="float32")
    order = np.array([3, 0, 4, 1, 2])

    @jax.jit
    def logits(p: Any, inputs: Any, ids: Any) -> Any:
        return model.apply({"params": p}, inputs, ids, rngs={"dropout": jax.random.key(7)})

    expected = np.asarray(logits(params, batch, jnp.arange(5)))
    shuffled = {name: x[order] for name, x in batch.items()}
    permuted = logits(params, shuffled, jnp.asarray(order))
    np.testing.assert_allclose(permuted, expected[order], rtol=0, atol=1e-4)
    same = logits(params, shuffled, jnp.arange(5))
    assert np.abs(same - expected[order]).max() > 0.1


@functools.cache
def initialised(scan_layers: bool, remat: str) -> dict[str, np.ndarray]:
    config = tiny.config(scan_layers=scan_layers, remat=remat)
    return tree.flatten(jax.jit(functools.partial(init_params, config, 0))())


@pytest.mark.parametrize(("scan_layers", "remat"), [(False, "none"), (True, "full")])
def test_scan_and_remat_change_no_initial_parameter(scan_layers: bool, remat: str) -> None:
    expected, found = initialised(True, "none"), initialised(scan_layers, remat)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@functools.cache
def computed(scan_layers: bool, remat: str, fusion: str) -> tuple[float, Any]:
    """(loss, gradient) with dropout."""
    config = tiny.config(
        # The decoder's layers are a loop like the encoder's, but for a fusion within it.
        decoder_layers=2 if fusion in ("per_layer", "decoder_states") else 1,
        dropout=0.2,
        attention_dropout=0.2,
        scan_layers=scan_layers,
        remat=remat,
        attention_fusion=fusion,
    )
    model, batch = build(config), tiny.batch(config)
    params = tiny.random_params(model, dtype="float32")
    key = jax.random.key(3)

    def loss(p: Any) -> jax.Array:
        return loss_sums(model, p, batch, jnp.arange(3), key, 4).objective

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return float(value), tree.flatten(gradient)


@pytest.mark.parametrize(
    ("scan_layers", "remat", "fusion"),
    [
        # That every way can be differentiated with every fusion shows in fusion_test.py.
        (False, "none", "none"),
        (True, "full", "none"),
        (True, "dots", "per_layer"),
        (False, "full", "per_layer"),
        (True, "context", "decoder_states"),
        (False, "dots", "decoder_states"),
        # This fusion stands outside the loop.
        (False, "full", "shared"),
    ],
)
def test_scan_and_remat_change_no_gradient(scan_layers: bool, remat: str, fusion: str) -> None:
    loss, gradient = computed(True, "none", fusion)
    other_loss, other_gradient = computed(scan_layers, remat, fusion)
    assert other_gradient.keys() == gradient.keys()
    assert other_loss == pytest.approx(loss, rel=1e-6)
    for path, value in gradient.items():
        np.testing.assert_allclose(
            other_gradient[path], value, rtol=0, atol=2e-5 * (1 + np.abs(value).max()), err_msg=path
        )


@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_sequences_longer_than_the_position_tables_are_refused(decoder_layers: int) -> None:
    config = tiny.config(decoder_layers=decoder_layers, max_positions=6)
    model = build(config)
    tokens = np.full((1, 7), 5, np.int32)
    with pytest.raises(UserError, match="sequence length = 7: max_positions is 6"):
        jax.eval_shape(functools.partial(model.init, method="encode"), jax.random.key(0), tokens)


def test_layers_start_from_different_values() -> None:
    for path, value in initialised(True, "none").items():
        if "/layers/" in path and path.endswith("kernel"):
            assert np.any(value[0] != value[1]), path
            assert value.std() == pytest.approx(0.02, rel=0.15), path
        elif path.endswith("embedding"):
            assert np.asarray(value).std() == pytest.approx(0.02, rel=0.35), path
        elif path.endswith("bias"):
            assert not np.any(value), path
        elif path.endswith("scale"):
            assert np.all(value == 1.0), path


@pytest.mark.parametrize(
    ("decoder_layers", "fusion"),
    [(0, "none"), (1, "none"), (1, "shared"), (1, "per_layer"), (1, "decoder_states")],
)
def test_bfloat16_keeps_parameters_gradients_logits_and_loss_in_float32(
    decoder_layers: int, fusion: str
) -> None:
    config = tiny.config(
        dtype="bfloat16", decoder_layers=decoder_layers, attention_fusion=fusion, dropout=0.1
    )
    model, batch = build(config), tiny.batch(config)

    def loss(params: Any) -> Any:
        return loss_sums(model, params, batch, jnp.arange(3), jax.random.key(0), 4).loss

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), batch)["params"])
    for leaf in jax.tree.leaves((shapes, jax.eval_shape(jax.value_and_grad(loss), shapes))):
        assert leaf.dtype == jnp.float32
    hidden = jax.eval_shape(lambda p: model.apply({"params": p}, batch, method="hidden"), shapes)
    logits = jax.eval_shape(lambda p: model.apply({"params": p}, batch), shapes)
    assert (hidden.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)
