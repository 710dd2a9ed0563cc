"""A second start finds the programs of the first, and computes the same with them."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from seqrecipes.training import compilation
from tests.commands.harness import ROOT, xla_flags

# Trains the small stage of the loop's tests and says what became of its programs.
START = """
import collections, json, pathlib, sys
import jax
from seqrecipes.training import checkpoints, compilation
from seqrecipes.config.recipe import Phase
from tests.training import loop_test
folder = pathlib.Path(sys.argv[1])
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
job = loop_test.training(checkpointing=checkpoints.Checkpointing(every=3, keep=9))
with compilation.kept(folder):
    loss = loop_test.run(job, folder / "stage")["loss"]
state = loop_test.last_state(job, folder / "stage")
total = sum(float(abs(x).sum()) for x in jax.tree.leaves((state.params, state.optimizer)))
print(json.dumps({"hits": events["cache_hits"], "misses": events["cache_misses"],
                  "loss": loss, "total": total}))
"""


def start(folder: pathlib.Path) -> tuple[dict[str, float], str]:
    """One start of the run; what it printed, and what it complained of."""
    done = subprocess.run(
        [sys.executable, "-c", START, str(folder)],
        cwd=ROOT,
        # The programs are so small that JAX would not keep them otherwise.
        env=dict(os.environ)
        | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": xla_flags(2)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def kept(folder: pathlib.Path) -> set[str]:
    """Names of the programs in a run's folder."""
    return {file.name for file in (folder / "compiled").glob("*-cache")}


pytestmark = pytest.mark.usefixtures("no_shared_programs")


@pytest.mark.slow
def test_a_second_start_compiles_nothing_and_goes_on_bit_for_bit(tmp_path):
    tmp_path.joinpath("run").mkdir()
    cold, _ = start(tmp_path / "run")
    programs = kept(tmp_path / "run")
    assert sum(name.startswith("jit_train_step-") for name in programs) == 2, "one for each phase"
    # As if it had been killed after step 3, in the first phase, writing a program, and moved.
    for step in (6, 8):
        shutil.rmtree(tmp_path / "run" / "stage" / "checkpoints" / str(step))
    cut = next((tmp_path / "run" / "compiled").glob("jit_train_step-*-cache"))
    size = cut.stat().st_size
    os.truncate(cut, size // 2)
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    warm, complaints = start(moved)
    assert cold["misses"] == len(programs) and warm["hits"] > 0
    # Only where the first run did something else: it entered a phase, and did not go on in it.
    assert [name.split("-")[0] for name in kept(moved) - programs] == ["jit_enter_phase"]
    assert warm["misses"] == 2, "the one that is new, and the one that was cut off"
    assert (moved / "compiled" / cut.name).stat().st_size > size // 2
    assert (warm["loss"], warm["total"]) == (cold["loss"], cold["total"])
    assert "machine" not in complaints, complaints


def test_the_users_place_wins_and_is_put_back(tmp_path, caplog):
    caplog.set_level("INFO", "seqrecipes")
    assert jax.config.jax_compilation_cache_dir is None
    with compilation.kept(tmp_path):
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    try:
        with compilation.kept(tmp_path):
            jax.jit(lambda x: x + 1)(1.0)
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
    assert [record.args for record in caplog.records] == [
        (str(tmp_path / "compiled"),),
        (str(tmp_path / "own"),),
    ]
    assert not (tmp_path / "compiled").exists()
    caplog.clear()
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with compilation.kept(tmp_path):
            assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not caplog.records
