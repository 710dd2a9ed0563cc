"""The best checkpoint by a metric of validation: which stays, and what a killed run makes of it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.errors import UserError
from seqrecipes.training import checkpoints, loop, reporting
from seqrecipes.training.checkpoints import Checkpoints
from seqrecipes.training.interruption import Interrupted
from tests.models import labels

pytestmark = pytest.mark.usefixtures("shared_updates")

MODEL = labels.labeller(dropout=0.1)
BATCH = labels.batch(MODEL, rows=8)


class Batches:
    """The rows of one batch, in another order at every step."""

    def __init__(self, at_the_end: Callable[[], None] = lambda: None):
        self._at_the_end = at_the_end

    def train(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        for step in range(start, stop):
            if step == stop - 1:
                self._at_the_end()
            order = np.random.default_rng(step).permutation(8)
            yield {name: values[order] for name, values in BATCH.items()}

    def validation(self) -> list[Any]:
        raise AssertionError("an evaluation stands in its place")


def training(best: tuple[str, str], **changes: Any) -> loop.Training:
    values: dict[str, Any] = {
        "name": "tiny",
        "model": MODEL,
        "features": {name: values.shape[1] for name, values in BATCH.items()},
        "phases": [Phase(8, ("token_embedding",))],
        "optimizer": AdamW(peak=1e-2, warmup_steps=1),
        "partitioning": Partitioning(),
        "checkpointing": Checkpointing(every=2, keep=1, best=best),
        "batch_size": 8,
        "tokens_per_update": 8 * 9,
        "seed": 0,
        "logits_tile": 8,
        "log_every": 2,
        "validate_every": 2,
    }
    return loop.Training(**(values | changes))


def run(
    job: loop.Training,
    folder: pathlib.Path,
    evaluation: loop.Evaluation,
    batches: Batches | None = None,
) -> dict[str, float]:
    folder.mkdir(exist_ok=True)
    mesh = job.partitioning.mesh()
    return loop.train(
        job,
        folder,
        mesh=mesh,
        initial_params=lambda: job.random_params(mesh),
        batches=batches or Batches(),
        metadata={"model": MODEL.config.to_dict()},
        writers=lambda start: [reporting.JsonLines(folder / "metrics.jsonl", start)],
        evaluation=evaluation,
    )


def scripted(name: str, values: list[float]) -> loop.Evaluation:
    """One value after the other, whatever the parameters."""
    left = iter(values)
    return lambda params: {name: next(left), "other": 0.5}


def best_of(job: loop.Training, folder: pathlib.Path) -> Any:
    saved = Checkpoints(folder, job.checkpointing)
    found = saved.best()
    saved.close()
    return found


def kept(folder: pathlib.Path) -> set[int]:
    return {int(each.name) for each in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize(
    ("best", "values", "step"),
    [
        (("f1", "max"), [0.1, 0.9, 0.5, 0.3], 4),
        (("perplexity", "min"), [9.0, 2.5, 4.0, 3.0], 4),
        (("perplexity", "min"), [2.5, 9.0, 12.0, 11.0], 2),
        (("f1", "max"), [0.2, 0.9, 0.9, 0.1], 6),
        (("f1", "max"), [0.1, 0.2, 0.3, 0.4], 8),
        (("f1", "max"), [0.0, 0.0, 0.0, 0.0], 8),
    ],
)
def test_the_best_stays_beside_the_latest(
    tmp_path: pathlib.Path, best: tuple[str, str], values: list[float], step: int
) -> None:
    job = training(best)
    final = run(job, tmp_path / "run", scripted(best[0], values))
    assert final == {best[0]: values[-1], "other": 0.5}
    assert kept(tmp_path / "run") == {step, 8}
    assert best_of(job, tmp_path / "run") == (
        step,
        {best[0]: values[step // 2 - 1], "other": 0.5},
    )
    rows = reporting.read_metrics(tmp_path / "run" / "metrics.jsonl")
    name = f"validation/{best[0]}"
    assert [(row["step"], row[name]) for row in rows if name in row] == list(
        zip([2, 4, 6, 8], values, strict=True)
    )


def test_a_metric_that_validation_does_not_give_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="validation gives f1, other"):
        run(training(("f2", "max")), tmp_path / "run", scripted("f1", [0.1]))


def test_checkpoints_between_validations_are_not_compared(tmp_path: pathlib.Path) -> None:
    job = training(
        ("f1", "max"),
        checkpointing=Checkpointing(every=1, keep=1, best=("f1", "max")),
        validate_every=3,
    )
    run(job, tmp_path / "run", scripted("f1", [0.7, 0.2, 0.1]))
    assert kept(tmp_path / "run") == {3, 8}
    assert best_of(job, tmp_path / "run")[0] == 3


def of_parameters(params: tree.Tree) -> dict[str, float]:
    """Rises and falls as training goes on, and is a function of the parameters alone."""
    bias = np.asarray(jax.device_get(params["heads"]["words"]["output"]["bias"]), np.float64)
    return {"f1": float(np.sin(1e4 * bias.sum()))}


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class Killed(BaseException):
    """As if the process had been killed."""


def test_a_killed_run_goes_on_to_the_same_best_and_the_same_last_state(
    tmp_path: pathlib.Path,
) -> None:
    job = training(("f1", "max"))
    final = run(job, tmp_path / "whole", of_parameters)
    for validations in (1, 2, 3):
        folder, done = tmp_path / str(validations), []

        def killed(params: tree.Tree, done: list[int] = done, limit: int = validations) -> Any:
            if len(done) == limit:
                raise Killed
            done.append(1)
            return of_parameters(params)

        with pytest.raises(Killed):
            run(job, folder, killed)
        assert run(job, folder, of_parameters) == final
        assert kept(folder) == kept(tmp_path / "whole")
        assert best_of(job, folder) == best_of(job, tmp_path / "whole")
        for step in kept(folder):
            ours, theirs = (
                checkpoints.restore_params(
                    each / "checkpoints" / str(step),
                    job.shapes,
                    job.partitioning.placement(),
                )
                for each in (folder, tmp_path / "whole")
            )
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        ours, theirs = (
            (each / "metrics.jsonl").read_text() for each in (folder, tmp_path / "whole")
        )
        assert losses(ours) == losses(theirs)


def losses(text: str) -> list[tuple[int, float]]:
    rows = map(json.loads, text.splitlines())
    return [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]


def test_a_signal_at_the_last_step_does_not_lose_its_validation(tmp_path: pathlib.Path) -> None:
    job = training(("f1", "max"))
    with pytest.raises(Interrupted):
        run(job, tmp_path / "run", scripted("f1", [0.1, 0.2, 0.3, 0.4]), Batches(interrupt))
    assert best_of(job, tmp_path / "run") == (8, {"f1": 0.4, "other": 0.5})


def test_a_stage_without_a_ranking_saves_and_validates_as_before(tmp_path: pathlib.Path) -> None:
    job = dataclasses.replace(
        training(("f1", "max")), checkpointing=Checkpointing(every=3, keep=9), validate_every=4
    )
    run(job, tmp_path / "run", scripted("f1", [0.1, 0.2]))
    assert kept(tmp_path / "run") == {3, 6, 8}
    assert not list((tmp_path / "run").glob("checkpoints/*/metrics"))


@pytest.mark.parametrize("best", [("f1", "up"), ("f1",), ("f1", "max", "min")])
def test_rankings_that_cannot_be_are_refused(best: Any) -> None:
    with pytest.raises(UserError, match=r"Checkpointing\.best"):
        Checkpointing(best=best)
