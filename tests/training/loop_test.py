"""The loop alone, on NumPy batches: no TensorFlow, no recipe. What is not finite stops it."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from seqrecipes import models
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import AdamW, Partitioning
from seqrecipes.training import checkpoints, loop, reporting
from tests.models import tiny

pytestmark = pytest.mark.usefixtures("shared_updates")

FEATURES = {"encoder_input_tokens": 8, "masked_positions": 2, "masked_targets": 2}


class RandomBatches:
    """Batches that are a function of the step."""

    def train(self, start, stop):
        for step in range(start, stop):
            yield self._batch(step)

    def validation(self):
        return [self._batch(10_000)]

    def _batch(self, seed):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(4, 20, (16, 8)).astype(np.int32)
        return {
            "encoder_input_tokens": tokens,
            "masked_positions": np.tile(np.int32([1, 4]), (16, 1)),
            "masked_targets": tokens[:, [1, 4]],
        }


def training(**changes) -> loop.Training:
    values = {
        "name": "tiny",
        "model": models.build(tiny.config(decoder_layers=0, dropout=0.1)),
        "features": FEATURES,
        "phases": [Phase(4, ("encoder",)), Phase(4)],
        "optimizer": AdamW(peak=1e-2, warmup_steps=1),
        "partitioning": Partitioning(),
        "checkpointing": checkpoints.Checkpointing(every=3),
        "batch_size": 16,
        "tokens_per_update": 16 * 8,
        "seed": 0,
        "logits_tile": 8,
        "log_every": 2,
        "validate_every": 4,
    }
    return loop.Training(**(values | changes))


def run(job: loop.Training, folder, initial_params=None) -> dict[str, float]:
    mesh = job.partitioning.mesh()
    folder.mkdir(exist_ok=True)
    return loop.train(
        job,
        folder,
        mesh=mesh,
        initial_params=initial_params or (lambda: job.random_params(mesh)),
        batches=RandomBatches(),
        metadata={"model": job.model.config.to_dict()},
        writers=lambda start: [reporting.JsonLines(folder / "metrics.jsonl", start)],
    )


def test_a_stage_trains_reports_validates_and_saves(tmp_path):
    final = run(training(), tmp_path / "stage")
    rows = reporting.read_metrics(tmp_path / "stage" / "metrics.jsonl")
    # Reports every 2 steps and before a checkpoint (3, 6); validation at 4 and at the end.
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 3, 4, 6, 8]
    validations = {row["step"]: row["validation/loss"] for row in rows if "validation/loss" in row}
    assert validations.keys() == {4, 8}
    assert validations[8] == final["loss"]
    assert all(
        name in rows[0]
        for name in ("train/gradient_norm", "train/padding", "speed/tokens_per_second")
    )
    latest = checkpoints.find(tmp_path / "stage", field="x")
    assert latest.name == "8"
    metadata = checkpoints.read_metadata(latest)
    assert (metadata["step"], metadata["examples"]) == (8, 8 * 16)
    assert metadata["model"]["encoder_layers"] == 2


def test_what_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    job = training()
    mesh = job.partitioning.mesh()

    def poisoned():
        return jax.tree.map(lambda x: x * np.nan, job.random_params(mesh))

    with pytest.raises(FloatingPointError, match="the loss is nan at step 1"):
        run(job, tmp_path / "stage", poisoned)
    assert checkpoints.latest_step(tmp_path / "stage") is None


def test_metrics_of_lost_work_are_dropped_and_a_cut_line_is_no_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "train/loss": 1.0}) for step in (2, 4, 6)]
    path.write_text("\n".join(lines) + '\n{"step": 7, "tr')
    writer = reporting.JsonLines(path, start=4)
    writer.write_scalars(5, {"train/loss": 2.0})
    assert [row["step"] for row in reporting.read_metrics(path)] == [2, 4, 5]


def test_the_same_stage_on_another_mesh_gives_the_same_validation_loss(tmp_path):
    one = run(training(), tmp_path / "a")
    two = run(
        dataclasses.replace(
            training(), partitioning=Partitioning(fsdp=2, tensor=2, micro_batches=2)
        ),
        tmp_path / "b",
    )
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


def test_phases_of_other_layers_and_micro_batches_go_on_bit_for_bit_from_any_step(tmp_path):
    below = ("token_embedding", "encoder/embedding")
    job = training(
        phases=[
            Phase(2, (*below, "encoder")),
            Phase(2, below, frozen_encoder_layers=1, micro_batches=2),
            Phase(2),
        ],
        checkpointing=checkpoints.Checkpointing(every=1, keep=10),
        log_every=6,
        validate_every=6,
    )
    final = run(job, tmp_path / "whole")
    expected = last_state(job, tmp_path / "whole")
    assert {cohort: len(adam.mu) for cohort, adam in expected.optimizer.items()}.keys() == set(
        "012"
    )
    # Within each phase, and where one ends.
    for step in (1, 3, 4, 5):
        folder = tmp_path / str(step)
        here = f"checkpoints/{step}"
        shutil.copytree(tmp_path / "whole" / here, folder / here)
        assert run(job, folder) == final
        jax.tree.map(np.testing.assert_array_equal, last_state(job, folder), expected)


def last_state(job: loop.Training, folder):
    saved = checkpoints.Checkpoints(folder, job.checkpointing)
    state = saved.restore(job.steps, job.abstract_state(job.spans[-1], job.partitioning.mesh()))
    saved.close()
    return state
