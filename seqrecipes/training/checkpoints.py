"""Checkpoints of a stage: orbax, asynchronous, restored onto any mesh.

One folder a step, with three items: `params`, `optimizer` and `metadata` (JSON: recipe, model
configuration, vocabulary checksum, data position, checksums), so that a checkpoint explains itself.
Orbax writes to a temporary folder and renames it when all is on disk: a killed run leaves no half
checkpoint under a step's name. What is read is compared with its checksums (`training.integrity`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import operator
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from seqrecipes import tree
from seqrecipes.config.training import Checkpointing
from seqrecipes.errors import UserError
from seqrecipes.folders import whole_folder
from seqrecipes.training import integrity
from seqrecipes.training.integrity import Damaged, intact
from seqrecipes.training.partitioning import Placement
from seqrecipes.training.step import TrainState

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
TEMPORARY = ".orbax-checkpoint-tmp"
# Checkpoints that go: renamed at once, so that a kill leaves no half of one under a step's name.
REMOVED = ".removed"
# Version of what metadata says; a new field has a default and needs no new version.
FORMAT = 1


class Checkpoints:
    """The checkpoints of one stage.

    Args:
      stage_dir: the stage's folder; checkpoints lie in `checkpoints/<step>` below it.
      policy: what to keep.

    Raises:
      UserError: a folder has a step's name and holds no complete checkpoint.
    """

    def __init__(self, stage_dir: pathlib.Path, policy: Checkpointing):
        self._stage_dir, self._dir = stage_dir, stage_dir.absolute() / FOLDER
        integrity.check_complete(self._dir)
        discard(stage_dir)
        if policy.best:
            self._check_metrics()
        for partial in unfinished(stage_dir):
            log.warning("ignoring and removing %s: it was cut off before it was complete", partial)
        keep: list[Any] = [checkpoint_managers.LatestN(policy.keep)]
        if policy.keep_every:
            keep.append(checkpoint_managers.EveryNSteps(policy.keep_every))
        ranking: dict[str, Any] = {}
        self._metric, mode = policy.best or ("", "")
        if policy.best:
            ranking = {"best_fn": operator.itemgetter(self._metric), "best_mode": mode}
            keep.append(
                checkpoint_managers.BestN(
                    get_metric_fn=ranking["best_fn"],
                    reverse=mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._manager = ocp.CheckpointManager(
            self._dir,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
                todelete_subdir=REMOVED,
                **ranking,
            ),
        )

    def _check_metrics(self) -> None:
        """Of all checkpoints: one whose metrics read better than they were would hide the best."""
        for step in integrity.complete_steps(self._dir):
            folder = self._dir / str(step)
            metadata, file = read_metadata(folder), folder / "metrics" / "metrics"
            with intact(folder):
                found = json.loads(file.read_text("utf-8")) if file.is_file() else None
                if integrity.ARRAYS in metadata and found != metadata.get("metrics"):
                    raise Damaged("metrics read otherwise than they were written")

    def latest(self) -> int | None:
        """Step of the latest complete checkpoint, if any."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, dict[str, float]] | None:
        """Step and metrics of the best checkpoint by the policy, if any was validated."""
        best = self._manager.best_step()
        return None if best is None else (best, self._manager.metrics(best))

    def save(
        self,
        step: int,
        state: TrainState,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns when the state may be donated. A step saved already is left.

        The metrics, if any, are those that `Checkpointing.best` chooses by.

        Raises:
          UserError: they lack the one to choose by, or the disk is full.
        """
        if metrics and self._metric not in metrics:
            known = ", ".join(metrics)
            raise UserError("Checkpointing.best", self._metric, f"validation gives {known}")
        if step == self.latest():
            return
        self._settle()
        items = {"params": state.params, "optimizer": state.optimizer}
        checksums = {name: integrity.of_tree(values) for name, values in items.items()}
        written = (
            dict(metadata) | {"format": FORMAT} | ({"metrics": dict(metrics)} if metrics else {})
        )
        with disk_errors(self._dir):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(state.optimizer),
                    metadata=ocp.args.JsonSave(integrity.sealed(written, checksums)),
                ),
                metrics=dict(metrics) if metrics else None,
                force=True,
            )

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, laid out as the shapes and shardings in `like` say.

        Raises:
          UserError: the checkpoint is damaged.
        """
        folder = self._dir / str(step)
        with intact(folder):
            metadata = read_metadata(folder)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(like.params),
                    optimizer=ocp.args.StandardRestore(like.optimizer),
                ),
            )
            for item in ("params", "optimizer"):
                integrity.check_arrays(metadata, item, integrity.of_tree(restored[item]))
        count = jax.device_put(np.asarray(step, np.int32), like.step.sharding)
        return TrainState(step=count, params=restored["params"], optimizer=restored["optimizer"])

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        with disk_errors(self._dir):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the threads."""
        self._settle()
        self._manager.close()

    def _settle(self) -> None:
        # Nothing is renamed any more, and there is room for the next.
        self.wait()
        discard(self._stage_dir)


@contextlib.contextmanager
def disk_errors(directory: pathlib.Path) -> Iterator[None]:
    """Turns a full disk, which arrives wrapped in many ways, into an error that says so."""
    try:
        yield
    except Exception as error:
        seen: BaseException | None = error
        while seen is not None:
            if "No space left" in str(seen) or "RESOURCE_EXHAUSTED" in str(seen):
                raise UserError(
                    "MODEL_DIR",
                    str(directory),
                    "the disk is full; free some space and run the same command again: it goes "
                    "on from the last complete checkpoint",
                ) from error
            seen = seen.__cause__ or seen.__context__
        raise


def latest_step(stage_dir: pathlib.Path) -> int | None:
    """Step of the latest complete checkpoint of a stage's folder, without opening it."""
    return max(integrity.complete_steps(stage_dir / FOLDER), default=None)


def discard(stage_dir: pathlib.Path) -> None:
    """Deletes the checkpoints of a stage's folder that are kept no longer."""
    if jax.process_index() == 0:
        shutil.rmtree(stage_dir / FOLDER / REMOVED, ignore_errors=True)


def unfinished(stage_dir: pathlib.Path) -> list[pathlib.Path]:
    """Folders of checkpoints that were cut off while they were written."""
    return sorted((stage_dir / FOLDER).glob(f"*{TEMPORARY}*"))


def find(path: str | pathlib.Path, *, field: str) -> pathlib.Path:
    """The folder of one checkpoint: itself, or the latest one of a stage's folder.

    Raises:
      UserError: there is no complete checkpoint.
    """
    path = pathlib.Path(path).absolute()
    if integrity.is_complete(path):
        return path
    stage_dir = path.parent if path.name == FOLDER else path
    step = latest_step(stage_dir)
    if step is None:
        what = "holds no complete checkpoint" if path.is_dir() else "does not exist"
        raise UserError(
            field, str(path), f"{what}; name a stage's folder or one of its checkpoints/<step>"
        )
    return stage_dir / FOLDER / str(step)


def read_metadata(checkpoint: pathlib.Path) -> dict[str, Any]:
    """The JSON beside the arrays of a checkpoint's folder.

    Raises:
      UserError: it is damaged, or a later version of this package wrote it.
    """
    options = _this_process()
    handler = ocp.JsonCheckpointHandler(multiprocessing_options=options)
    with (
        intact(checkpoint),
        ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer,
    ):
        metadata = checkpointer.restore(_item(checkpoint, "metadata"))
        integrity.check_metadata(metadata)
    if metadata.get("format", FORMAT) > FORMAT:
        raise UserError(
            "checkpoint", str(checkpoint), "a later version of seqrecipes wrote it; install that"
        )
    return metadata


def restore_params(
    checkpoint: pathlib.Path, shapes: tree.Tree, placement: Placement
) -> dict[str, Any]:
    """The parameters of a checkpoint's folder, straight onto the devices.

    Raises:
      UserError: it is damaged.
    """
    metadata = read_metadata(checkpoint)
    shardings = placement(shapes)
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        for path, leaf in tree.flatten(shapes).items()
    }
    with intact(checkpoint), ocp.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(_item(checkpoint, "params"), tree.unflatten(like))
        integrity.check_arrays(metadata, "params", integrity.of_tree(params))
    return params


def read_leaf(checkpoint: pathlib.Path, path: str) -> np.ndarray:
    """One parameter of a checkpoint's folder, in this process's memory alone.

    Raises:
      UserError: it is damaged.
    """
    metadata = read_metadata(checkpoint)
    options = _this_process()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with (
        intact(checkpoint),
        ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer,
    ):
        restored = checkpointer.restore(
            _item(checkpoint, "params"),
            args=ocp.args.PyTreeRestore(
                item=tree.unflatten({path: 0}),
                restore_args=tree.unflatten({path: ocp.RestoreArgs(restore_type=np.ndarray)}),
                partial_restore=True,
            ),
        )
        leaf = tree.flatten(restored)[path]
        integrity.check_arrays(metadata, "params", {path: integrity.of_array(leaf)})
    return leaf


def _item(checkpoint: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of one item; orbax refuses relative paths, which people give."""
    return checkpoint.absolute() / name


def _this_process() -> ocp.options.MultiprocessingOptions:
    """Reads without waiting for the other processes, which may do something else."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def save_params(
    stage_dir: pathlib.Path,
    params: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    vocabulary: bytes,
    account: str,
    files: Mapping[str, str] | None = None,
) -> None:
    """Writes parameters without an optimizer as step 0 of a new folder, to warm-start from.

    Args:
      stage_dir: gets `checkpoints/0`, `vocabulary/spm.model`, `warm-start.txt` and the other files.
      params: nested dictionary.
      metadata: `model`, and where the parameters came from.
      vocabulary: the SentencePiece model of the parameters.
      account: where they came from, for a person.
      files: {name: text} of what else belongs there.

    Raises:
      UserError: the folder exists, or the disk is full.
    """
    written = dict(metadata) | {
        "format": FORMAT,
        "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
        "step": 0,
        "examples": 0,
    }
    checksums = {"params": integrity.of_tree(params)}
    with disk_errors(stage_dir), whole_folder(stage_dir) as folder:
        with ocp.CheckpointManager(folder.absolute() / FOLDER) as manager:
            manager.save(
                0,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    metadata=ocp.args.JsonSave(integrity.sealed(written, checksums)),
                ),
            )
        (folder / "vocabulary").mkdir()
        (folder / "vocabulary" / "spm.model").write_bytes(vocabulary)
        (folder / "warm-start.txt").write_text(f"{account}\n", "utf-8")
        for name, text in (files or {}).items():
            (folder / name).write_text(text, "utf-8")


def check_space(directory: pathlib.Path, needed: int) -> None:
    """Refuses to start what cannot be saved.

    Args:
      directory: where checkpoints will be written; it need not exist yet.
      needed: bytes.

    Raises:
      UserError: less is free.
    """
    existing = next(p for p in [directory.absolute(), *directory.absolute().parents] if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            "MODEL_DIR",
            str(directory),
            f"checkpoints need {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; free some "
            "space, choose another folder, or lower Checkpointing.keep",
        )
