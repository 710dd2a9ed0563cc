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

from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.training import checkpoints
from seqrecipes.training.step import TrainState

Usage = namedtuple("Usage", "total used free")


def test_the_latest_complete_checkpoint_is_found_from_every_folder(tmp_path):
    stage = tmp_path / "stage"
    for step in (5, 40, 9):
        for item in ("params", "metadata"):
            (stage / "checkpoints" / str(step) / item).mkdir(parents=True)
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
    saved = checkpoints.Checkpoints(pathlib.Path("b"), checkpoints.Checkpointing())
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
        checkpoints.Checkpointing(**{field: -1})


def test_saving_goes_on_while_the_next_update_overwrites_the_state(tmp_path, monkeypatch):
    """What is written is a copy: the state may be donated as soon as `save` returns."""
    gate, rename = threading.Event(), os.rename

    def held_back(source, target):
        assert pathlib.Path(target).name != "7" or gate.wait(20)
        rename(source, target)

    monkeypatch.setattr(os, "rename", held_back)
    before = np.arange(2**20, dtype=np.float32)
    state = TrainState(jnp.int32(7), {"w": jnp.asarray(before)}, {"m": jnp.asarray(before + 1)})
    saved = checkpoints.Checkpoints(tmp_path, checkpoints.Checkpointing())
    saved.save(7, state, {})
    donating = jax.jit(lambda old: jax.tree.map(lambda x: x * 0 - 1, old), donate_argnums=0)
    after = jax.block_until_ready(donating(state))
    assert state.params["w"].is_deleted(), "else nothing was overwritten"
    assert checkpoints.latest_step(tmp_path) is None, "it was waited for"
    gate.set()
    saved.close()
    assert (after.params["w"] == -1).all()
    folder = tmp_path / "checkpoints" / "7"
    np.testing.assert_array_equal(checkpoints.read_leaf(folder, "w"), before)
