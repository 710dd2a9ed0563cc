"""Checksums: those of plain Python, on every mesh, and changed by every changed bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes.training import integrity
from seqrecipes.training.partitioning import Partitioning

DEVICES = 8


def by_hand(array: np.ndarray) -> int:
    """The definition, word by word."""
    size, whole = min(array.itemsize, 4), 2**32 - 1
    data, total = array.tobytes(), 0
    for position in range(len(data) // size):
        word = int.from_bytes(data[size * position : size * (position + 1)], "little")
        x = (word + position * 0x9E3779B1) & whole
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            x = (x ^ (x >> shift)) * factor & whole
        total += x
    return total & whole


@pytest.mark.parametrize("dtype", [np.float32, np.int32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4)])
def test_devices_and_host_agree_with_the_definition(dtype, shape) -> None:
    array = (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    expected = by_hand(np.asarray(array))
    assert integrity.of_array(np.asarray(array)) == expected
    assert integrity.of_tree({"a": {"b": jnp.asarray(array)}}) == {"a/b": expected}


def test_an_array_in_chunks_has_the_same_checksum(monkeypatch) -> None:
    array = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    monkeypatch.setattr(integrity, "_CHUNK", 7)
    assert integrity.of_array(array) == by_hand(array)


def test_a_mesh_changes_no_checksum() -> None:
    array = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    mesh = Partitioning(data=2, fsdp=2, tensor=2).mesh()
    for spec in (PartitionSpec("fsdp", "tensor"), PartitionSpec(None, ("data", "tensor"))):
        spread = jax.device_put(array, NamedSharding(mesh, spec))
        assert integrity.of_tree([spread]) == {"0": by_hand(array)}


def test_every_bit_counts_and_so_does_the_order() -> None:
    array = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    found = [integrity.of_array(array), integrity.of_array(array[::-1].copy())]
    found += [integrity.of_array(-array), integrity.of_array(np.zeros(6, np.float32))]
    for bit in range(8 * array.nbytes):
        changed = bytearray(array.tobytes())
        changed[bit // 8] ^= 1 << bit % 8
        found.append(integrity.of_array(np.frombuffer(changed, np.float32)))
    assert len(set(found)) == 4 + 8 * array.nbytes


def test_an_array_of_which_nothing_was_written_is_refused():
    metadata = {integrity.ARRAYS: {"params": {"a": 1}}}
    integrity.check_arrays(metadata, "params", {"a": 1})
    with pytest.raises(integrity.Damaged, match="params/b"):
        integrity.check_arrays(metadata, "params", {"a": 1, "b": 2})
