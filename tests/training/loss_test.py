"""Summed cross-entropy: by hand, in tiles, on meshes, and without a buffer for all logits."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes.config.training import PLAIN, Loss, Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models.projection import Projection
from seqrecipes.training.loss import Sums, cross_entropy

DEVICES = 8

PAD = 1


def of_given(logits: Any, targets: Any, minimised: Loss = PLAIN) -> Sums:
    """The sums of logits that are given: states that a table of unit vectors projects."""
    identity = jnp.eye(logits.shape[-1], dtype=logits.dtype)
    projection = Projection(logits, identity)
    return cross_entropy(projection, targets, pad_id=PAD, tile=logits.shape[1], minimised=minimised)


def test_sums_by_hand() -> None:
    # Probabilities 1/2, 1/4, 1/4 and 1/10, 8/10, 1/10.
    one, two = np.log([2.0, 1.0, 1.0]), np.log([1.0, 8.0, 1.0])
    logits = jnp.asarray([[one, two, one], [two, two, one]], jnp.float32)
    targets = jnp.asarray([[0, 2, PAD], [0, PAD, 2]])
    sums = of_given(logits, targets)
    expected = math.log(2) + math.log(10) + math.log(10) + math.log(4)
    assert float(sums.loss) == pytest.approx(expected, rel=1e-6)
    assert float(sums.tokens) == 4.0
    assert float(sums.correct) == 1.0


def test_large_logits_stay_finite() -> None:
    logits = jnp.asarray([[[1e4, 0.0, 0.0], [0.0, 0.0, -1e4]]], jnp.float32)
    sums = of_given(logits, jnp.asarray([[2, 2]]))
    assert float(sums.loss) == pytest.approx(1e4 + 1e4 + math.log(2), rel=1e-6)


def test_a_target_that_is_not_quite_the_largest_is_not_correct() -> None:
    logits = jnp.asarray([[[1.0, 0.0, 1.0 + 2**-23]] * 2], jnp.float32)
    assert float(of_given(logits, jnp.asarray([[0, 2]])).correct) == 1.0


def test_a_batch_of_padding_sums_to_zero() -> None:
    sums = of_given(jnp.ones((2, 3, 5)), jnp.full((2, 3), PAD))
    assert [float(x) for x in sums] == [0.0, 0.0, 0.0, 0.0]


LOSSES = [PLAIN, Loss(label_smoothing=0.1), Loss(z_loss=1e-2), Loss(0.3, 0.1)]


def plain(projection: Projection, targets: Any, minimised: Loss) -> Any:
    """The formula as the papers have it, on all logits at once, for JAX to differentiate."""
    logits = projection.states @ projection.table_VxD.T
    if projection.bias_V is not None:
        logits += projection.bias_V
    size, share = logits.shape[-1], minimised.label_smoothing
    log_p = jax.nn.log_softmax(logits)
    # The targets as a distribution: all but the smoothed share on the one, the rest on the others.
    wanted = jnp.where(jnp.arange(size) == targets[..., None], 1 - share, share / (size - 1))
    each = minimised.z_loss * jax.nn.logsumexp(logits, -1) ** 2 - (wanted * log_p).sum(-1)
    return jnp.sum(each * (targets != PAD))


def example(length: int, *, biased: bool) -> tuple[Projection, Any]:
    """Three rows of states, a table of nine ids, and targets; some of them padding."""
    rng = np.random.default_rng(length)
    states, table, bias = (rng.standard_normal(s) for s in ((4, length, 4), (9, 4), (9,)))
    targets: Any = rng.integers(0, 9, (4, length))
    targets[0, 0], targets[1, -1] = 5, PAD
    return Projection(states, table, bias if biased else None), targets


@pytest.mark.parametrize(("minimised", "biased"), zip(LOSSES, (True, False) * 2, strict=True))
@pytest.mark.parametrize("length", [1, 7])
@pytest.mark.parametrize("tile", [1, 3, 100])
def test_values_and_gradients_are_those_of_the_plain_formula(
    length: int, tile: int, minimised: Loss, biased: bool
) -> None:
    projection, targets = example(length, biased=biased)

    def loss(projection: Projection) -> Any:
        sums = cross_entropy(projection, targets, pad_id=PAD, tile=tile, minimised=minimised)
        # A factor, so that the gradient is not that of the sum alone.
        return 3 * sums.objective, sums

    with jax.enable_x64(True):
        (_, sums), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(projection)
        alone = jax.jit(lambda x: loss(x)[1])(projection)
        expected, of_plain = jax.value_and_grad(plain)(projection, targets, minimised)
    real = targets != PAD
    logits = projection.states @ projection.table_VxD.T
    logits += 0 if projection.bias_V is None else projection.bias_V
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    by_hand = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0][real].sum()
    for each in (sums, alone):
        assert float(each.objective) == pytest.approx(float(expected), rel=1e-12)
        assert float(each.loss) == pytest.approx(by_hand, rel=1e-12)
        assert float(each.tokens) == real.sum()
        assert float(each.correct) == (logits.argmax(-1) == targets)[real].sum()
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(of_plain), strict=True):
        np.testing.assert_allclose(ours, 3 * np.asarray(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("axes", [{"data": 4}, {"fsdp": 2, "data": 2}, {"tensor": 3}])
def test_a_mesh_changes_neither_values_nor_gradients(axes: dict[str, int]) -> None:
    projection, targets = example(7, biased=True)

    def loss(projection: Projection, targets: Any) -> Any:
        sums = cross_entropy(projection, targets, pad_id=PAD, tile=3, minimised=LOSSES[-1])
        return sums.objective, sums

    partitioning = Partitioning(**axes)
    mesh = partitioning.mesh(jax.devices()[: math.prod(axes.values())])

    def put(x: Any, *axes: Any) -> Any:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    with jax.enable_x64(True):
        gradient = jax.value_and_grad(loss, has_aux=True)
        (_, expected), of_one = gradient(projection, targets)
        rows = ("data", "fsdp")
        spread = Projection(
            put(projection.states, rows),
            put(projection.table_VxD, "tensor"),
            put(projection.bias_V, "tensor"),
        )
        with partitioning.on(mesh):
            (_, sums), gradients = jax.jit(gradient)(spread, put(targets, rows))
    for ours, theirs in zip(
        jax.tree.leaves((sums, gradients)), jax.tree.leaves((expected, of_one)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_bfloat16_states_and_table_give_their_gradients_within_its_rounding() -> None:
    with jax.enable_x64(True):
        exact, targets = example(8, biased=True)
        narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), exact)
        narrow = narrow._replace(bias_V=jnp.asarray(exact.bias_V, jnp.float32))
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), narrow)

        def loss(projection: Projection) -> Any:
            return cross_entropy(projection, targets, pad_id=PAD, tile=3).objective

        gradients = jax.jit(jax.grad(loss))(narrow)
        expected = jax.grad(plain)(wide, targets, PLAIN)
    assert [x.dtype for x in gradients] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    for ours, theirs in zip(gradients, expected, strict=True):
        # Half a unit in the last of 8 bits, once for probabilities and once for the result.
        bound = 2**-7 * np.abs(theirs).max()
        np.testing.assert_allclose(np.asarray(ours, float), theirs, rtol=0, atol=bound)


def largest_buffer(hlo: str) -> int:
    """Elements of the largest array that a compiled program names."""
    dims = re.findall(r"\b(?:f32|f64|bf16|pred|s32|u32)\[([\d,]+)\]", hlo)
    return max(math.prod(map(int, d.split(","))) for d in dims)


def test_logits_never_exist_for_all_tokens_at_once() -> None:
    batch, length, width, vocab, tile = 4, 64, 8, 512, 8
    targets: Any = np.random.default_rng(0).integers(4, vocab, (batch, length))

    def loss(h: Any, w: Any, size: int) -> Any:
        return cross_entropy(Projection(h, w), targets, pad_id=PAD, tile=size).objective

    shapes = (
        jax.ShapeDtypeStruct((batch, length, width), jnp.float32),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
    )

    @functools.cache
    def compiled(size: int, inputs: tuple[int, ...] = (0, 1)) -> Any:
        return (
            jax.jit(jax.grad(functools.partial(loss, size=size), inputs)).lower(*shapes).compile()
        )

    whole, part = batch * length * vocab, batch * tile * vocab
    # The measure sees the buffer where there is one.
    assert largest_buffer(compiled(length).as_text()) >= whole
    assert largest_buffer(compiled(tile).as_text()) <= part
    # Moreover some copies of one tile and of the inputs, in bytes.
    assert compiled(tile).memory_analysis().temp_size_in_bytes < 4 * whole / 2
    # Of a frozen table no gradient is computed: two matrix products in place of three.
    product = 2 * batch * tile * vocab * width
    saved = [compiled(tile, inputs).cost_analysis()["flops"] for inputs in ((0, 1), (0,))]
    assert saved[0] - saved[1] >= product


def test_with_250_000_ids_memory_is_below_half_of_the_plain_formulas() -> None:
    # As a small seq2seq model has it on one device; compiled, not run.
    rows, length, width, vocab, tile = 8, 512, 512, 250_000, 128
    targets = jnp.full((rows, length), 5)

    def tiled(h: Any, w: Any) -> Any:
        return cross_entropy(Projection(h, w), targets, pad_id=PAD, tile=tile).objective

    def whole(h: Any, w: Any) -> Any:
        return plain(Projection(h, w), targets, PLAIN)

    shapes = (
        jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
    )

    def taken(loss: Any) -> int:
        stats = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis()
        return stats.temp_size_in_bytes + stats.output_size_in_bytes

    assert taken(tiled) < taken(whole) / 2


def test_nothing_added_is_the_cross_entropy_itself() -> None:
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 7)), jnp.float32)
    sums = of_given(logits, jnp.asarray([[2, 3, 4], [5, 6, PAD]]))
    assert float(sums.objective) == float(sums.loss)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"label_smoothing": 1.0}, "Loss.label_smoothing"),
        ({"label_smoothing": -0.1}, "Loss.label_smoothing"),
        ({"z_loss": -1e-4}, "Loss.z_loss"),
    ],
)
def test_impossible_settings_are_refused_by_name(values: dict[str, float], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Loss(**values)
    assert caught.value.field == field
