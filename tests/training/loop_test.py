"""The loop alone, on NumPy batches: no TensorFlow, no recipe. What is not finite stops it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable

import jax
import numpy as np
import pytest

from seqrecipes import models
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.training import checkpoints, interruption, loop, reporting
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
        "checkpointing": Checkpointing(every=3),
        "batch_size": 16,
        "tokens_per_update": 16 * 8,
        "seed": 0,
        "logits_tile": 8,
        "log_every": 2,
        "validate_every": 4,
    }
    return loop.Training(**(values | changes))


def run(
    job: loop.Training, folder, initial_params=None, batches=None, probe=None, devices=None
) -> dict[str, float]:
    mesh = job.partitioning.mesh(devices)
    folder.mkdir(exist_ok=True)
    return loop.train(
        job,
        folder,
        mesh=mesh,
        initial_params=initial_params or (lambda: job.random_params(mesh)),
        batches=batches or RandomBatches(),
        metadata={"model": job.model.config.to_dict()},
        writers=lambda start: [reporting.JsonLines(folder / "metrics.jsonl", start)],
        probe=probe,
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

    with pytest.raises(FloatingPointError, match=r"at step 1 the loss is nan .* no checkpoint yet"):
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
        devices=jax.local_devices(),
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
        checkpointing=Checkpointing(every=1, keep=10),
        log_every=6,
        validate_every=6,
    )
    final = run(job, tmp_path / "whole")
    expected = last_state(job, tmp_path / "whole")
    assert {cohort: len(adam.mu) for cohort, adam in expected.optimizer.items()}.keys() == set(
        "012"
    )
    rarely = dataclasses.replace(job, checkpointing=Checkpointing(every=6))
    # Within each phase, and where one ends.
    for step in (1, 3, 4, 5):
        folder = tmp_path / str(step)
        here = f"checkpoints/{step}"
        shutil.copytree(tmp_path / "whole" / here, folder / here)
        assert run(rarely, folder) == final
        jax.tree.map(np.testing.assert_array_equal, last_state(job, folder), expected)


def last_state(job: loop.Training, folder):
    saved = checkpoints.Checkpoints(folder, job.checkpointing)
    state = saved.restore(job.steps, job.abstract_state(job.spans[-1], job.partitioning.mesh()))
    saved.close()
    return state


class Overflowing(RandomBatches):
    """Batches of token 23, whose rows are so small that LayerNorm's gradient overflows.

    The loss stays finite: what is divided by the deviation is about as small as that.
    """

    STEPS = (4, 5)

    def train(self, start, stop):
        for step, batch in enumerate(super().train(start, stop), start):
            tokens = np.full_like(batch["encoder_input_tokens"], 23)
            yield batch | ({"encoder_input_tokens": tokens} if step in self.STEPS else {})


def overflowing(**changes) -> tuple[loop.Training, Callable]:
    """A job that such batches overflow, and its first parameters."""
    config = tiny.config(decoder_layers=0, tie_head=False, norm_epsilon=1e-37, dropout=0.1)
    # Positions, added to the tokens, and biases stay as small.
    job = training(model=models.build(config), phases=[Phase(8, ("encoder/embedding",))], **changes)

    def params():
        params = job.random_params(job.partitioning.mesh())
        table = params["token_embedding"]["embedding"]
        params["token_embedding"]["embedding"] = table.at[23].multiply(1e-25)
        position = params["encoder"]["embedding"]["position"]
        position["embedding"] = position["embedding"] * 1e-25
        return params

    return job, params


def test_an_update_whose_gradient_is_not_finite_is_never_made(tmp_path):
    job, params = overflowing()
    stop = "at step 5 the loss is [0-9.]+ and the norm of the gradient nan; .* step 3 is good.*SKIP"
    for _ in range(2):  # the same command comes to the same point
        with pytest.raises(FloatingPointError, match=stop):
            run(job, tmp_path / "stage", params, Overflowing())
        assert checkpoints.latest_step(tmp_path / "stage") == 3
    one = dataclasses.replace(job, skip_nonfinite=1)
    with pytest.raises(FloatingPointError, match="at step 6"):  # the second in a row
        run(one, tmp_path / "stage", params, Overflowing())
    two = dataclasses.replace(job, skip_nonfinite=2)
    final = run(two, tmp_path / "stage", params, Overflowing())
    assert np.isfinite(final["loss"])
    rows = reporting.read_metrics(tmp_path / "stage" / "metrics.jsonl")
    skipped = {row["step"]: row["train/skipped"] for row in rows if "train/skipped" in row}
    assert skipped == {6: 2}, "reports at 3, at 4 (validation), at 6 (a checkpoint) and at 8"
    assert all(np.isfinite(value) for row in rows for value in row.values())
    state = last_state(job, tmp_path / "stage")
    assert int(state.step) == 8 and int(state.optimizer["0"].count) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


class Ending(RandomBatches):
    """Something happens when batches are asked for: at a step, or for the validation."""

    def __init__(self, at=None, validation=lambda: None):
        self._at, self._validation = at or {}, validation

    def train(self, start, stop):
        for step, batch in enumerate(super().train(start, stop), start):
            self._at.get(step, lambda: None)()
            yield batch

    def validation(self):
        self._validation()
        return super().validation()


class Killed(Exception):
    """Stands for the end of the process."""


def killed():
    raise Killed


def test_what_a_kill_left_out_is_done_once_and_nothing_twice(tmp_path):
    looks = []

    def look(params):
        looks.append(len(looks))
        return {"f1": 1.0}

    job = training(phases=[Phase(4)], checkpointing=Checkpointing(every=2), validate_every=9)
    probe, folder = loop.Probe(2, look), tmp_path / "stage"

    def attempt(**batches):
        return run(job, folder, batches=Ending(**batches), probe=probe)

    # After the look at step 2; in the validation of the last step, whose checkpoint is there.
    for broken in ({"at": {3: killed}}, {"validation": killed}, {"validation": killed}):
        with pytest.raises(Killed):
            attempt(**broken)
    assert checkpoints.latest_step(folder) == 4
    assert "validation" not in reporting.reported(folder / "metrics.jsonl", 4)
    final = attempt()
    # Once more: all is there.
    assert attempt(validation=killed) == final
    rows = reporting.read_metrics(folder / "metrics.jsonl")
    kinds = [(row["step"], next(k for k in row if k != "step").split("/")[0]) for row in rows]
    assert [each for each in kinds if each[1] != "train"] == [
        (0, "probes"),
        (2, "probes"),
        (4, "validation"),
        (4, "probes"),
    ]
    assert len(set(kinds)) == len(kinds) and len(looks) == 3


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_the_last_validation_is_honoured(tmp_path, signum, caplog):
    caplog.set_level("WARNING", "seqrecipes")
    job = training(phases=[Phase(2)])

    def send():
        os.kill(os.getpid(), signum)

    with pytest.raises(interruption.Interrupted) as stopped:
        run(job, tmp_path / "stage", batches=Ending(validation=send))
    assert (stopped.value.signum, stopped.value.step) == (signum, 2)
    assert checkpoints.latest_step(tmp_path / "stage") == 2
    assert "validation" in reporting.reported(tmp_path / "stage" / "metrics.jsonl", 2)
    assert signal.Signals(signum).name + ": stopping after this update" in caplog.text
