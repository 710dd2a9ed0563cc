"""Layouts: where each axis goes, and what is refused before anything is computed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes import tree
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import build
from seqrecipes.training import partitioning as parts
from tests.models import tiny

DEVICES = 8


def test_data_takes_what_the_other_axes_leave() -> None:
    assert dict(Partitioning().mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(Partitioning(fsdp=2, tensor=2).mesh().shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    "axes", [{"data": 3}, {"fsdp": 3}, {"fsdp": 16}, {"data": 8, "tensor": 2}, {"data": 1}]
)
def test_a_mesh_of_another_size_is_refused(axes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="multiply to the 8 devices") as caught:
        Partitioning(**axes).mesh()
    assert caught.value.field == "Partitioning"


@pytest.mark.parametrize(
    ("field", "value"),
    [("data", 0), ("data", -2), ("fsdp", 0), ("fsdp", -1), ("tensor", 0), ("micro_batches", 0)],
)
def test_axes_below_one_are_refused_by_name(field: str, value: int) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(UserError) as caught:
        Partitioning(**settings)
    assert (caught.value.field, caught.value.value) == (f"Partitioning.{field}", value)


@pytest.mark.parametrize(("size", "nearest"), [(0, 16), (8, 16), (24, 32), (17, 16), (65, 64)])
def test_an_indivisible_batch_is_refused_with_the_nearest_good_one(size: int, nearest: int) -> None:
    mesh = Partitioning(data=2, fsdp=4).mesh()
    with pytest.raises(UserError, match=rf"2 x 2 x 4 = 16, e\.g\. {nearest}$") as caught:
        parts.check_batch(size, 2, mesh, field="Stage.batch_size")
    assert (caught.value.field, caught.value.value) == ("Stage.batch_size", size)
    parts.check_batch(nearest, 2, mesh, field="Stage.batch_size")


@pytest.mark.parametrize(
    ("changes", "axes", "words"),
    [
        ({"vocab_size": 25}, {"tensor": 2}, "token_embedding/embedding.*'vocab' of size 25"),
        ({"num_heads": 1}, {"tensor": 2}, "'heads' of size 1 cannot be split 2 ways"),
        ({"hidden_size": 20}, {"fsdp": 8}, "'embed' of size 20 cannot be split 8 ways"),
        ({"mlp_size": 22}, {"tensor": 4, "data": 2}, "'(heads|mlp)' of size"),
    ],
)
def test_an_indivisible_parameter_is_refused_by_name(
    changes: dict[str, Any], axes: dict[str, Any], words: str
) -> None:
    partitioning = Partitioning(**axes)
    shapes = tiny.shapes(build(tiny.config(**changes)))
    with pytest.raises(UserError, match=words) as caught:
        partitioning.parameter_shardings(shapes, partitioning.mesh())
    assert "smaller" in caught.value.remedy


def test_a_rule_with_another_number_of_axes_is_refused() -> None:
    partitioning = Partitioning(parameter_rules=((r".*", ("layers", None)),))
    shapes = tiny.shapes(build(tiny.config()))
    with pytest.raises(UserError, match="name each axis") as caught:
        partitioning.parameter_shardings(shapes, partitioning.mesh())
    assert caught.value.field == "Partitioning.parameter_rules"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"decoder_layers": 0},
        {"decoder_layers": 0, "tie_head": False},
        {"tie_head": False, "norm": "post", "embedding_norm": False},
    ],
)
def test_default_rules_cover_every_matrix_of_every_model(changes: dict[str, Any]) -> None:
    partitioning = Partitioning(data=2, fsdp=2, tensor=2)
    mesh = partitioning.mesh()
    shapes = tree.flatten(tiny.shapes(build(tiny.config(**changes))))
    for path, sharding in partitioning.parameter_shardings(tree.unflatten(shapes), mesh).items():
        axes = [axis for entry in sharding.spec for axis in parts._names(entry)]
        if path.endswith(("kernel", "embedding")):
            assert "fsdp" in axes, path
        small = ("norm/", "position/", "type/", "mlm_head/dense", "output/bias")
        assert ("tensor" in axes) == (not any(part in path for part in small)), path


@pytest.mark.parametrize(
    ("shape", "axes", "local"),
    [
        ((8, 3), (None, None), (2, 3)),
        ((3, 8), (None, None), (3, 2)),
        ((3, 5), (None, None), (3, 5)),
        # 2 / fsdp leaves nothing to split.
        ((2, 8), ("fsdp", None), (1, 2)),
        ((16, 8), ("fsdp", None), (2, 8)),
        ((6,), ("fsdp",), (3,)),
        # An entry left out is one of None.
        ((3, 12), (), (3, 3)),
    ],
)
def test_moments_split_the_first_dimension_that_the_data_axis_divides(
    shape: tuple[int, ...], axes: tuple[str | None, ...], local: tuple[int, ...]
) -> None:
    partitioning = Partitioning(data=4, fsdp=2)
    parameter = NamedSharding(partitioning.mesh(), PartitionSpec(*axes))
    assert partitioning.moment_sharding(parameter, shape).shard_shape(shape) == local


def test_moments_lie_as_the_parameter_without_zero1() -> None:
    partitioning = Partitioning(data=4, fsdp=2, zero1=False)
    parameter = NamedSharding(partitioning.mesh(), PartitionSpec("fsdp"))
    assert partitioning.moment_sharding(parameter, (16, 8)).shard_shape((16, 8)) == (8, 8)


def test_a_global_batch_has_every_row_once_on_the_data_axes() -> None:
    partitioning = Partitioning(data=2, fsdp=2, tensor=2)
    mesh = partitioning.mesh()
    rows = np.arange(24).reshape(8, 3)
    np.testing.assert_array_equal(parts.local_rows(8, mesh), np.arange(8))
    array = parts.global_batch({"x": rows}, 8, mesh)["x"]
    np.testing.assert_array_equal(array, rows)
    assert array.sharding.shard_shape(array.shape) == (2, 3)
    assert parts.batch_shards(mesh) == 4


def test_logical_names_mean_nothing_outside_a_mesh_and_are_restored_after_it() -> None:
    partitioning = Partitioning(data=4, tensor=2)
    config = tiny.config(decoder_layers=0)
    model, batch = build(config), tiny.batch(config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    apply = jax.jit(model.apply)
    plain = apply({"params": params}, batch)
    with partitioning.on(partitioning.mesh()):
        sharded = jax.jit(model.apply)({"params": params}, batch)
    assert len(plain.sharding.device_set) == 1
    assert len(sharded.sharding.device_set) == 8
    assert sharded.sharding.shard_shape(sharded.shape) == (1, 4, 12)
    np.testing.assert_allclose(plain, sharded, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(plain, jax.jit(model.apply)({"params": params}, batch))
