"""Finding checkpoints, room for them, and a disk that is full."""

from __future__ import annotations

import os
import pathlib
import shutil
import threading
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.errors import UserError
from seqrecipes.training import checkpoints
from seqrecipes.training.step import TrainState

Usage = namedtuple("Usage", "total used free")


def test_the_latest_complete_checkpoint_is_found_from_every_folder(tmp_path):
    stage = tmp_path / "stage"
    for step in (5, 40, 9):
        for item in ("params/_METADATA", "metadata/metadata", "_CHECKPOINT_METADATA"):
            file = stage / "checkpoints" / str(step) / item
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (stage / "checkpoints" / "50.orbax-checkpoint-tmp").mkdir()
    latest = stage / "checkpoints" / "40"
    assert checkpoints.latest_step(stage) == 40
    assert checkpoints.unfinished(stage) == [stage / "checkpoints" / "50.orbax-checkpoint-tmp"]
    for path in (stage, stage / "checkpoints", latest):
        assert checkpoints.find(path, field="x") == latest
    assert checkpoints.find(stage / "checkpoints" / "9", field="x").name == "9"
    with pytest.raises(UserError, match="does not exist"):
        checkpoints.find(tmp_path / "other", field="WarmStart.source")
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.find(tmp_path, field="WarmStart.source")


def test_every_function_takes_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage, values = pathlib.Path("a", "stage"), np.arange(6, dtype=np.float32)
    checkpoints.save_params(
        stage, {"w": jnp.asarray(values)}, {"model": "x"}, vocabulary=b"v", account="a"
    )
    folder = stage / "checkpoints" / "0"
    assert not folder.is_absolute()
    assert checkpoints.read_metadata(folder)["model"] == "x"
    np.testing.assert_array_equal(checkpoints.read_leaf(folder, "w"), values)
    placement = Partitioning().placement()
    shapes = {"w": jax.ShapeDtypeStruct(values.shape, values.dtype)}
    restored = checkpoints.restore_params(folder, shapes, placement)
    np.testing.assert_array_equal(restored["w"], values)
    state = TrainState(jnp.int32(1), {"w": jnp.asarray(values)}, {"m": jnp.asarray(values)})
    saved = checkpoints.Checkpoints(pathlib.Path("b"), Checkpointing())
    saved.save(1, state, {})
    saved.close()
    assert checkpoints.find("b", field="x") == tmp_path / "b" / "checkpoints" / "1"


def test_too_little_room_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**10, 0, 2 * 10**9))
    checkpoints.check_space(tmp_path / "not" / "there" / "yet", 2 * 10**9)
    with pytest.raises(UserError, match=r"need 2\.50 GB and 2\.00 GB are free"):
        checkpoints.check_space(tmp_path / "not" / "there" / "yet", 25 * 10**8)


def test_a_disk_that_fills_up_is_said_however_it_is_wrapped(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), checkpoints.disk_errors(tmp_path):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("a background thread failed") from error
    with pytest.raises(RuntimeError, match="something else"), checkpoints.disk_errors(tmp_path):
        raise RuntimeError("something else")


@pytest.mark.parametrize("field", ["every", "keep", "keep_every"])
def test_impossible_policies_are_refused(field):
    with pytest.raises(UserError, match=f"Checkpointing.{field}"):
        Checkpointing(**{field: -1})


def test_saving_goes_on_while_the_next_update_overwrites_the_state(tmp_path, monkeypatch):
    """What is written is a copy: the state may be donated as soon as `save` returns."""
    gate, rename = threading.Event(), os.rename

    def held_back(source, target):
        assert pathlib.Path(target).name != "7" or gate.wait(20)
        rename(source, target)

    monkeypatch.setattr(os, "rename", held_back)
    before = np.arange(2**20, dtype=np.float32)
    state = TrainState(jnp.int32(7), {"w": jnp.asarray(before)}, {"m": jnp.asarray(before + 1)})
    saved = checkpoints.Checkpoints(tmp_path, Checkpointing())
    saved.save(7, state, {})
    donating = jax.jit(lambda old: jax.tree.map(lambda x: x * 0 - 1, old), donate_argnums=0)
    after = jax.block_until_ready(donating(state))
    # On CPUs orbax may read an array itself; XLA, which knows, then writes beside it.
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(state)), "nothing was overwritten"
    assert checkpoints.latest_step(tmp_path) is None, "it was waited for"
    gate.set()
    saved.close()
    assert (after.params["w"] == -1).all()
    folder = tmp_path / "checkpoints" / "7"
    np.testing.assert_array_equal(checkpoints.read_leaf(folder, "w"), before)


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(tmp_path, monkeypatch):
    def cut_off(folder, *args, **kwargs):
        for file in pathlib.Path(folder).rglob("_CHECKPOINT_METADATA"):
            file.unlink()
            raise InterruptedError("killed")

    saved = checkpoints.Checkpoints(tmp_path, Checkpointing(keep=1))
    saved.save(1, state_of(1), {})
    saved.wait()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_off)
        with pytest.raises(InterruptedError):
            saved.save(2, state_of(2), {})
            saved.close()
    again = checkpoints.Checkpoints(tmp_path, Checkpointing(keep=1))
    assert again.latest() == 2
    again.close()
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["2"]


def state_of(step: int) -> TrainState:
    """A state of other values at every step, with a leaf of two dimensions and a scalar."""
    leaf = jnp.arange(600, dtype=jnp.float32).reshape(20, 30) * step
    return TrainState(
        jnp.int32(step), {"a": {"w": leaf}}, {"m": leaf + 1, "count": jnp.int32(step)}
    )


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("stage")
    saved = checkpoints.Checkpoints(folder, BEST)
    for step, score in ((1, 0.5), (2, 0.25)):
        saved.save(step, state_of(step), {"model": {"width": 3}}, {"f1": score})
    saved.close()
    return folder


BEST = Checkpointing(best=("f1", "max"))


def read_all(folder: pathlib.Path) -> list:
    """All that a checkpoint of step 2 is ever asked for."""
    saved = checkpoints.Checkpoints(folder, BEST)
    try:
        state = saved.restore(2, jax.eval_shape(lambda: state_of(2)))
        best = saved.best()
    finally:
        saved.close()
    step_dir = checkpoints.find(folder, field="x")
    leaf = checkpoints.read_leaf(step_dir, "a/w")
    metadata = checkpoints.read_metadata(step_dir)
    return [*map(np.asarray, jax.tree.leaves(state)), leaf, repr(best), repr(metadata)]


def test_a_flipped_bit_anywhere_is_refused_or_harmless(two_steps, tmp_path):
    expected = read_all(two_steps)
    rng, refused = np.random.default_rng(0), 0
    files = [p.relative_to(two_steps) for p in sorted(two_steps.glob("checkpoints/2/**/*"))]
    files = [file for file in files if (two_steps / file).is_file()]
    assert len(files) > 15
    for trial, file in enumerate(files * 2):
        folder = tmp_path / str(trial)
        shutil.copytree(two_steps, folder)
        content = bytearray((folder / file).read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (folder / file).write_bytes(content)
        try:
            found = read_all(folder)
        except UserError as error:
            refused += 1
            assert str(error).count("\n") == 0
            assert "the one before is that of step 1: remove the folder" in str(error)
        else:
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=str(file))
        shutil.rmtree(folder)
    assert refused > len(files) / 2


@pytest.mark.parametrize("lost", ["", "params", "_CHECKPOINT_METADATA", "params/d", "metadata"])
def test_what_is_missing_is_refused_with_the_step_to_go_on_from(two_steps, tmp_path, lost):
    folder = tmp_path / "stage"
    shutil.copytree(two_steps, folder)
    part = folder / "checkpoints" / "2" / lost
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    if not lost:
        part.mkdir()
    assert checkpoints.latest_step(folder) == (2 if lost == "params/d" else 1)
    with pytest.raises(UserError, match="the one before is that of step 1: remove the folder"):
        read_all(folder)


def test_checkpoints_without_checksums_are_read_and_later_formats_refused(
    two_steps, monkeypatch, caplog
):
    def without(metadata, arrays):
        return dict(metadata)

    def later(metadata, arrays):
        return {**metadata, "format": checkpoints.FORMAT + 1}

    like = jax.eval_shape(lambda: state_of(3))
    saved = checkpoints.Checkpoints(two_steps, BEST)
    for step, made in ((3, without), (4, later)):
        monkeypatch.setattr(checkpoints.integrity, "sealed", made)
        saved.save(step, state_of(step), {"model": {}})
        saved.wait()
        if step == 3:
            jax.tree.map(np.testing.assert_array_equal, saved.restore(3, like), state_of(3))
            assert "params: written before checkpoints had checksums" in caplog.text
    with pytest.raises(UserError, match="a later version"):
        saved.restore(4, like)
    saved.close()
