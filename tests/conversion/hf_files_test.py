"""Files of weights: what is written is what the safetensors library reads, and damage is named."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrecipes.conversion.hf import files
from seqrecipes.errors import UserError


def tensors(*shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"layer.{i}.weight": rng.standard_normal(shape).astype(np.float32)
        for i, shape in enumerate(shapes)
    }


def write(folder, arrays, **options):
    files.write(folder, {k: v.shape for k, v in arrays.items()}, arrays.items(), **options)


def test_the_library_reads_what_is_written(tmp_path):
    arrays = tensors((3, 4), (5,), (1,), (2, 3, 4))
    arrays["transposed"] = tensors((6, 2))["layer.0.weight"].T
    write(tmp_path, arrays)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert list(file.offset_keys()) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(4, 200))
def test_shards_hold_every_tensor_once_and_no_more_than_they_may(tmp_path_factory, sizes, limit):
    folder = tmp_path_factory.mktemp("shards")
    arrays = tensors(*((size,) for size in sizes))
    write(folder, arrays, shard_bytes=limit)
    shards = sorted(folder.glob("*.safetensors"))
    found = {}
    for shard in shards:
        part = safetensors.numpy.load_file(shard)
        assert sum(a.nbytes for a in part.values()) <= limit or len(part) == 1
        assert not found.keys() & part.keys()
        found |= part
    assert found.keys() == arrays.keys()
    if len(shards) > 1:
        index = json.loads((folder / files.INDEX).read_text())
        assert index["metadata"] == {"total_size": 4 * sum(sizes)}
        assert {name: folder / file for name, file in index["weight_map"].items()} == {
            name: shard for shard in shards for name in safetensors.numpy.load_file(shard)
        }
    weights = files.Weights(folder)
    assert weights.shapes == {name: a.shape for name, a in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.read(name), array, strict=True)


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_types_are_read_as_float32(tmp_path, kind):
    array = tensors((4, 3))["layer.0.weight"].astype(kind)
    safetensors.numpy.save_file({"x": array}, tmp_path / "model.safetensors")
    read = files.Weights(tmp_path).read("x")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))


def test_a_file_cut_off_anywhere_is_named(tmp_path):
    write(tmp_path, tensors((30, 4), (5,)))
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for length in [0, 5, 8, 40, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.safetensors.*damaged or cut off"):
            files.Weights(tmp_path)
    file.write_bytes(whole[:8] + b"x" + whole[9:])
    with pytest.raises(UserError, match="damaged or cut off"):
        files.Weights(tmp_path)


def test_a_lost_shard_is_named(tmp_path):
    write(tmp_path, tensors((30,), (30,), (30,)), shard_bytes=130)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"missing: model-00002-of-00003\.safetensors"):
        files.Weights(tmp_path)


def test_a_folder_without_weights_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"holds none of model\.safetensors,"):
        files.Weights(tmp_path)
    (tmp_path / files.INDEX).write_text("[]")
    with pytest.raises(UserError, match="not an index of shards"):
        files.Weights(tmp_path)


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\\b", 7]
)
def test_an_index_names_files_of_its_folder_alone(tmp_path, name):
    folder, other = tmp_path / "folder", tmp_path / "other"
    for each in (folder, other):
        each.mkdir()
    write(other, tensors((3,)))
    (folder / files.INDEX).write_text(json.dumps({"weight_map": {"layer.0.weight": name}}))
    with pytest.raises(UserError, match="no file of the folder"):
        files.Weights(folder)


def test_links_lead_to_the_folder_or_to_the_blobs_of_a_cache(tmp_path):
    other, folder = tmp_path / "other", tmp_path / "folder"
    for each in (other, folder):
        each.mkdir()
    write(other, tensors((3,)))
    (folder / "model.safetensors").symlink_to(other / "model.safetensors")
    with pytest.raises(UserError, match=r"links to .*other/model\.safetensors, outside the folder"):
        files.Weights(folder)
    (folder / "model.safetensors").unlink()
    (other / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert files.Weights(folder).shapes == {"layer.0.weight": (3,)}
    linked = tmp_path / "link to the folder"
    linked.symlink_to(folder)
    assert files.Weights(linked).shapes

    snapshot, blobs = tmp_path / "cache" / "snapshots" / "1f3a", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (folder / "weights").rename(blobs / "5d")
    (snapshot / "model.safetensors").symlink_to("../../blobs/5d")
    assert files.Weights(snapshot).shapes == {"layer.0.weight": (3,)}


def test_a_tensor_of_two_shards_is_refused(tmp_path):
    write(tmp_path, tensors((30,), (30,)), shard_bytes=130)
    first, second = sorted(tmp_path.glob("*.safetensors"))
    safetensors.numpy.save_file(
        safetensors.numpy.load_file(first) | safetensors.numpy.load_file(second), second
    )
    with pytest.raises(UserError, match=r"layer\.0\.weight is in another shard too"):
        files.Weights(tmp_path)
