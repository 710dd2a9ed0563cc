"""Runs the training command on the sample, small enough to be killed and repeated many times.

Every run has a process of its own. Its libraries take six seconds to import, which is done once:
a server imports them, and a run is a copy of it that starts before JAX looks for devices.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqrecipes import configuration

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What no command needs.
WITHOUT = ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text", "clu")

MACROS = {
    "VOCABULARY_SIZE": 1_000,
    "SEQUENCE_LENGTH": 32,
    "BATCH_SIZE": 8,
    "MLM_STEPS": 30,
    "FROZEN_STEPS": 15,
    "UNFROZEN_STEPS": 15,
    "WARMUP_STEPS": 3,
    "PEAK": 1e-3,
    "CHECKPOINT_EVERY": 7,
    "Checkpointing.keep_every": 7,
    "LOG_EVERY": 5,
    "VALIDATE_EVERY": 10,
    "Recipe.validation_examples": 16,
    "PREDICTIONS": 0,
    "Stage.model_overrides": "{'hidden_size': 32, 'mlp_size': 64, 'encoder_layers': 2}",
    "seq2seq/Stage.model_overrides": "{'hidden_size': 32, 'mlp_size': 64, 'encoder_layers': 2,"
    " 'decoder_layers': 2, 'tie_head': False}",
}


def arguments(model_dir: pathlib.Path, **macros: object) -> list[str]:
    """Arguments of `seqrecipes.train` for the two-stage recipe in a folder; None leaves one out."""
    values = MACROS | {"MODEL_DIR": repr(str(model_dir))} | macros
    return [
        "--gin_file=gin/2stage_unfrz.gin",
        "--gin_file=gin/demo.gin",
        *(f"--gin.{name}={value}" for name, value in values.items() if value is not None),
    ]


@functools.cache
def _server() -> Any:
    """The server, with this process's environment at the first call."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqrecipes.report", "seqrecipes.runner"])
    configuration.quiet_tensorflow()
    shared = os.environ.pop("JAX_COMPILATION_CACHE_DIR")  # each run keeps its own, as a user's does
    multiprocessing.forkserver.ensure_running()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = shared
    return context


def _train(arguments: list[str], devices: int, log: str) -> None:
    """`python -m seqrecipes.train` in this process, which is there for nothing else."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(ROOT)
    os.environ["XLA_FLAGS"] = xla_flags(devices)
    sys.modules.update(dict.fromkeys(WITHOUT))
    sys.argv = ["seqrecipes.train", *arguments]
    try:
        runpy.run_module("seqrecipes.train", run_name="__main__", alter_sys=True)
    finally:
        # Before Python 3.14 such processes leave this out, and JAX its good-byes.
        atexit._run_exitfuncs()


def xla_flags(devices: int) -> str:
    """What `XLA_FLAGS` is here, for a process with so many devices."""
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])


class Command:
    """A run of the training command."""

    def __init__(self, arguments: list[str], devices: int, log: str) -> None:
        self._process = _server().Process(target=_train, args=(arguments, devices, log))
        self._process.start()

    def status(self) -> int | None:
        """None while it runs; minus a signal's number if that ended it."""
        return self._process.exitcode

    def wait(self, seconds: float = 600) -> int:
        self._process.join(seconds)
        status = self.status()
        assert status is not None, f"still there after {seconds} seconds"
        return status

    def wait_for(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Returns when `condition()` holds or the process has ended."""
        end = time.monotonic() + seconds
        while not condition() and self.status() is None:
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.02)

    def send_signal(self, signum: int) -> None:
        os.kill(self._process.pid, signum)


def start(arguments: list[str], *, devices: int = 1, log: pathlib.Path | None = None) -> Command:
    """Starts the command in a process of its own, with so many CPU devices."""
    return Command(arguments, devices, str(log or os.devnull))


def fresh(arguments: list[str], *, log: pathlib.Path) -> int:
    """The command as it is typed, from an interpreter of its own; its status."""
    environment = dict(os.environ) | {"XLA_FLAGS": xla_flags(1)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    with open(log, "ab") as output:
        command = [sys.executable, "-m", "seqrecipes.train", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output
        ).returncode


def final_params(stage_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """{path: array} of a checkpoint, read by orbax alone."""
    folder = (stage_dir / "checkpoints" / str(step) / "params").absolute()
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = checkpointer.restore(folder, restore_args=as_numpy)

    def walk(node: object, path: str = "") -> dict[str, np.ndarray]:
        if not isinstance(node, dict):
            return {path[1:]: np.asarray(node)}
        return {
            k: v for name, child in node.items() for k, v in walk(child, f"{path}/{name}").items()
        }

    return walk(restored)
