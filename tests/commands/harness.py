"""Runs the training command on the sample, small enough to be killed and repeated many times."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[2]

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
    "Checkpointing.keep_every": 14,
    "LOG_EVERY": 5,
    "VALIDATE_EVERY": 10,
    "Recipe.validation_examples": 16,
    "Stage.model_overrides": "{'hidden_size': 32, 'mlp_size': 64, 'encoder_layers': 2}",
    "seq2seq/Stage.model_overrides": "{'hidden_size': 32, 'mlp_size': 64, 'encoder_layers': 2,"
    " 'decoder_layers': 2, 'tie_head': False}",
}


def arguments(model_dir: pathlib.Path, **macros: object) -> list[str]:
    """Arguments of `seqrecipes.train` for the two-stage recipe in a folder."""
    values = MACROS | {"MODEL_DIR": repr(str(model_dir))} | macros
    return [
        "--gin_file=gin/2stage_unfrz.gin",
        "--gin_file=gin/demo.gin",
        *(f"--gin.{name}={value}" for name, value in values.items()),
    ]


def start(
    arguments: list[str], *, devices: int = 1, log: pathlib.Path | None = None
) -> subprocess.Popen[bytes]:
    """Starts the command in a process of its own, with so many CPU devices."""
    environment = dict(os.environ) | {
        "XLA_FLAGS": re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"]),
        "JAX_PLATFORMS": "cpu",
    }
    with open(log or os.devnull, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "seqrecipes.train", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition: object, process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    """Returns when `condition()` holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:  # type: ignore[operator]
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.02)


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
