"""The mesh changes speed and memory, never the mathematics: eight devices in every arrangement."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Partitioning
from seqrecipes.models import build
from tests.models import tiny
from tests.training import harness

DEVICES = 8

CONFIG = tiny.config(
    vocab_size=64,
    hidden_size=32,
    mlp_size=64,
    num_heads=4,
    tie_head=False,
    dropout=0.1,
    attention_dropout=0.1,
    max_positions=16,
)
PHASES = (Phase(2, harness.FREEZE), Phase(2))
# A large epsilon keeps Adam's first steps from being the sign of rounding errors.
ADAMW = AdamW(peak=1e-2, warmup_steps=1, floor=1e-3, epsilon=1e-3, clip_norm=0.5)
MESHES = {
    "data": Partitioning(data=8),
    "fsdp": Partitioning(data=1, fsdp=8),
    "tensor and micro-batches": Partitioning(data=4, tensor=2, zero1=False, micro_batches=2),
}


@functools.cache
def trained(name: str) -> harness.Result:
    model = build(CONFIG)
    batch = tiny.batch(CONFIG, rows=16, source=12, target=10)
    if name == "one device":
        return harness.run(model, batch, PHASES, ADAMW, Partitioning())
    partitioning = MESHES[name]
    return harness.run(model, batch, PHASES, ADAMW, partitioning, mesh=partitioning.mesh())


@pytest.mark.parametrize("name", MESHES)
def test_every_mesh_trains_as_one_device_does(name: str) -> None:
    expected, result = trained("one device"), trained(name)
    for ours, theirs in zip(result.metrics, expected.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for end, expected_end in zip(result.ends, expected.ends, strict=True):
        for path, value in expected_end.items():
            np.testing.assert_allclose(end[path], value, rtol=0, atol=2e-6, err_msg=path)


@pytest.mark.parametrize("name", MESHES)
def test_frozen_parameters_stay_bit_identical_on_every_mesh(name: str) -> None:
    result = trained(name)
    initial = tree.flatten(harness.initial(build(CONFIG)))
    for path, value in result.ends[0].items():
        if path.split("/")[0] in harness.FREEZE:
            np.testing.assert_array_equal(value, initial[path], err_msg=path)


def bytes_by_device(leaves: object) -> set[int]:
    """Bytes of arrays on each device; one number when all hold the same amount."""
    totals = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(leaves):
        for shard in leaf.addressable_shards:
            totals[shard.device] += shard.data.nbytes
    return set(totals.values())


def moments(result: harness.Result) -> list[object]:
    return [(adam.mu, adam.nu) for adam in result.state.optimizer.values()]


def test_zero1_spreads_moments_and_leaves_parameters_whole() -> None:
    result = trained("data")
    total = 4 * sum(math.prod(x.shape) for x in jax.tree.leaves(result.state.params))
    assert bytes_by_device(result.state.params) == {total}
    # Every leaf of this model has a dimension that is a multiple of 8.
    assert bytes_by_device(moments(result)) == {2 * total // 8}


def test_without_zero1_moments_lie_as_their_parameters() -> None:
    result = trained("tensor and micro-batches")
    (own,) = bytes_by_device(result.state.params)
    assert bytes_by_device(moments(result)) == {2 * own}


def test_fsdp_spreads_every_matrix_and_its_moments() -> None:
    result = trained("fsdp")
    for path, leaf in tree.flatten(result.state.params).items():
        share = leaf.addressable_shards[0].data.size / leaf.size
        is_matrix = path.endswith(("kernel", "embedding"))
        assert share == (1 / 8 if is_matrix else 1), path
    for adam in result.state.optimizer.values():
        for path, leaf in (adam.mu | adam.nu).items():
            parameter = tree.flatten(result.state.params)[path]
            assert (
                leaf.addressable_shards[0].data.shape == parameter.addressable_shards[0].data.shape
            )


def test_tensor_axis_splits_heads_feed_forward_and_vocabulary() -> None:
    result = trained("tensor and micro-batches")
    shapes = {
        path: (leaf.shape, leaf.addressable_shards[0].data.shape)
        for path, leaf in tree.flatten(result.state.params).items()
    }
    assert shapes["token_embedding/embedding"] == ((64, 32), (32, 32))
    assert shapes["lm_head/embedding"] == ((64, 32), (32, 32))
    stack = "encoder/stack/layers"
    assert shapes[f"{stack}/self_attention/query/kernel"] == ((2, 32, 4, 8), (2, 32, 2, 8))
    assert shapes[f"{stack}/self_attention/output/kernel"] == ((2, 4, 8, 32), (2, 2, 8, 32))
    assert shapes[f"{stack}/mlp/input/kernel"] == ((2, 32, 64), (2, 32, 32))
    assert shapes[f"{stack}/mlp/output/kernel"] == ((2, 64, 32), (2, 32, 32))
    assert shapes[f"{stack}/mlp_norm/scale"] == ((2, 32), (2, 32))


def test_encoder_only_model_trains_alike_on_a_mesh() -> None:
    config = tiny.config(vocab_size=64, hidden_size=32, mlp_size=64, num_heads=4, decoder_layers=0)
    model, batch = build(config), tiny.batch(config, rows=16, source=12)
    partitioning = Partitioning(data=2, fsdp=2, tensor=2, micro_batches=2)
    phases = (Phase(2),)
    expected = harness.run(model, batch, phases, ADAMW, Partitioning())
    result = harness.run(model, batch, phases, ADAMW, partitioning, mesh=partitioning.mesh())
    for ours, theirs in zip(result.metrics, expected.metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for path, value in expected.ends[0].items():
        np.testing.assert_allclose(result.ends[0][path], value, rtol=0, atol=2e-6, err_msg=path)
