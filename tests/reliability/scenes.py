"""What the kills interrupt: small commands, each with what they leave behind that must be equal.

`digest` says what a finished folder holds, without what depends on time: parameters and moments bit
for bit, metrics, the ledger's steps, and the bytes of all other files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

DATA, ENCODER = "data", "encoder"  # beside the scenes' folders

TRAIN: dict[str, object] = {
    "VOCABULARY_SIZE": 1_000,
    "SEQUENCE_LENGTH": 32,
    "BATCH_SIZE": 8,
    "MLM_STEPS": 8,
    "FROZEN_STEPS": 4,
    "UNFROZEN_STEPS": 4,
    "WARMUP_STEPS": 3,
    "PEAK": 1e-3,
    "CHECKPOINT_EVERY": 3,
    "LOG_EVERY": 2,
    "VALIDATE_EVERY": 4,
    "Recipe.validation_examples": 16,
    "Stage.model_overrides": {"hidden_size": 32, "mlp_size": 64, "encoder_layers": 2},
    "seq2seq/Stage.model_overrides": {
        "hidden_size": 32,
        "mlp_size": 64,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "tie_head": False,
    },
    "EXPORT_HF": True,
    "PROBE_EVERY": 4,
    "PROBE_UPDATES": 3,
    "PROBE_BATCH_SIZE": 8,
    "PROBE_LANGUAGES": ["en"],
    "Finetuning.hidden": [16],
    "udpos/Finetuning.lengths": {"encoder_input_tokens": 24},
    "probe/AdamW.warmup_steps": 1,
}
TUNE: dict[str, object] = {
    "LANGUAGES": ["en", "de"],
    "INPUT_LENGTH": 24,
    "HIDDEN": [16],
    "BATCH_SIZE": 8,
    "MAX_UPDATES": 8,
    "WARMUP_STEPS": 1,
    "VALIDATE_EVERY": 2,
    # A save on SIGTERM, which jobs of a killed `protocol` get, reports what it has: a line more.
    "LOG_EVERY": 1,
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A command that is interrupted.

    Attributes:
      name: of the command, too.
      files: gin files.
      macros: {name: value}.
      activities: what it does that a kill is aimed at.
    """

    name: str
    files: Sequence[str]
    macros: dict[str, object]
    activities: Sequence[str]

    def arguments(self, shared: pathlib.Path, folder: pathlib.Path) -> list[str]:
        """Of the command, with the folder as its MODEL_DIR."""
        encoder, data = str(shared / ENCODER), {"LABELLED_FILES": str(shared / DATA)}
        own: dict[str, object] = dict(data)
        if self.name == "finetune":
            own["CHECKPOINT"] = encoder
        if self.name == "protocol":
            macros = TUNE | data
            own = {"protocol.models": {"tiny": encoder}, "protocol.macros": macros}
        values = self.macros | own | {"MODEL_DIR": str(folder)}
        return [
            *(f"--gin_file={file}" for file in self.files),
            *(f"--gin.{name}={value!r}" for name, value in values.items()),
            *(["--side_by_side=2"] if self.name == "protocol" else []),
        ]


SCENES = {
    scene.name: scene
    for scene in (
        Scene(
            "train",
            ("gin/2stage_unfrz.gin", "gin/demo.gin", "gin/probes.gin"),
            TRAIN,
            (
                "vocabulary",
                "packing",
                "claim",
                "checkpoint",
                "restoring",
                "validation",
                "probes",
                "export",
                "warm start",
            ),
        ),
        Scene(
            "finetune",
            ("gin/finetune/udpos.gin", "gin/finetune/demo.gin"),
            TUNE | {"SEEDS": [0, 1]},
            ("claim", "checkpoint", "restoring", "evaluation", "scoring", "clearing"),
        ),
        Scene(
            "protocol",
            ("gin/protocol.gin",),
            {
                "SEEDS": [0, 1],
                "LEARNING_RATES": [1e-3, 1e-2],
                "GIN_FILES": ["gin/finetune/demo.gin"],
                "protocol.tasks": {"udpos": []},
            },
            ("jobs",),
        ),
    )
}

# Differs from run to run, or says when it was: not compared.
_FREE_NAMES = ("events.out.", "log", ".lock", "report.md", "curves.png", "scores.png", "config.gin")
_FREE_FOLDER = "compiled"


def digest(folder: pathlib.Path) -> dict[str, Any]:
    """What a finished run holds, by the file or the array."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or _FREE_FOLDER in name.parts:
            continue
        if path.name.startswith(_FREE_NAMES):
            continue
        if "checkpoints" in name.parts:
            at = name.parts.index("checkpoints")
            step = pathlib.Path(*name.parts[: at + 2])
            found.setdefault(str(step), _arrays(folder / step))
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            for row in rows:
                timed = [key for key in row if key.startswith("speed/")]
                for key in timed:
                    row.pop(key)
            found[str(name)] = rows
        elif path.name == "ledger.json":
            found[str(name)] = _ledger(json.loads(path.read_text("utf-8")))
        else:
            # Some files name the folder.
            content = path.read_bytes().replace(str(folder).encode(), b"MODEL_DIR")
            found[str(name)] = _sha256(content)
    return found


def _arrays(step: pathlib.Path) -> dict[str, str]:
    """{item/path of a leaf: shape and checksum}, read by orbax alone."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # it misses a file that items never have
    found = {}
    for item in ("params", "optimizer"):
        if not (step / item).is_dir():
            continue  # of a fine-tuning that was scored
        with ocp.PyTreeCheckpointer() as checkpointer:
            shapes = checkpointer.metadata((step / item).absolute()).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore((step / item).absolute(), restore_args=as_numpy)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            array = np.asarray(leaf)
            found[f"{item}{jax.tree_util.keystr(path)}"] = (
                f"{array.shape} {_sha256(array.tobytes())}"
            )
    return found


def _ledger(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each phase its updates, each counted once, and what one of them costs."""
    return [
        {
            "start": phase["start"],
            "stop": phase["stop"],
            "steps": phase["steps"] - phase["repeated"],
            "tokens": phase["tokens"] / phase["steps"],
            "flops": phase["flops"] / phase["steps"],
        }
        for phase in values["phases"]
    ]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Names of what differs, or is in one of the two alone."""
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
