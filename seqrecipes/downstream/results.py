"""Scores of many fine-tuning runs: read, grouped by model and task, averaged.

A run is one seed, and its `scores.json` holds metrics by language. The protocol is that of Soltan
et al. 2023, section 3: the score in the language trained on (English there), and `avg-0s`, the
plain mean over all other languages. Means and standard deviations over seeds are taken of each
seed's own average, so that languages which differ much do not make a model look unsteady.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from seqrecipes.errors import UserError
from seqrecipes.folders import SCORES_FILE

ENGLISH = "en"
AVERAGE = "avg-0s"

_KEYS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "model": str,
    "seed": int,
    "learning_rate": (int, float),
    "scores": dict,
}


def zero_shot(languages: Iterable[str], trained: str) -> list[str]:
    """The languages that `avg-0s` is the mean of: all but the one trained on."""
    return [language for language in languages if language != trained]


class Statistic(NamedTuple):
    """A mean over seeds in percent; its standard deviation (ddof 1) is None of a single seed."""

    mean: float
    std: float | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed: `scores` are percentages by language and metric, `language` the one trained on."""

    file: pathlib.Path
    task: str
    model: str
    seed: int
    learning_rate: float
    scores: dict[str, dict[str, float]]
    language: str = ENGLISH

    def score(self, metric: str, of: str) -> float:
        """A percentage.

        Args:
          metric: `f1`, ...
          of: a language, or `avg-0s` for the mean over all but the one trained on.

        Raises:
          UserError: the run has no such score.
        """
        if of == AVERAGE:
            return statistics.fmean(self.score(metric, each) for each in self.zero_shot())
        if metric not in self.scores[of]:
            has = ", ".join(sorted(self.scores[of])) or "nothing"
            raise UserError(str(self.file), of, f"has no {metric} of this language, only {has}")
        return self.scores[of][metric]

    def zero_shot(self) -> list[str]:
        """The languages scored but the one trained on."""
        return zero_shot(self.scores, self.language)


@dataclasses.dataclass(frozen=True)
class Result:
    """The seeds of one model on one task.

    Raises:
      UserError: a seed occurs twice, or the seeds differ in languages or in learning rate.
    """

    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        first = self.runs[0]
        files: dict[int, pathlib.Path] = {}
        for run in self.runs:
            if run.seed in files:
                raise UserError(
                    str(run.file),
                    f"seed {run.seed}",
                    f"is that of {files[run.seed]} too, for {run.model} on {run.task}; leave one "
                    "of them out, or give the models different names",
                )
            files[run.seed] = run.file
            if run.scores.keys() != first.scores.keys():
                raise UserError(
                    str(run.file),
                    sorted(run.scores),
                    f"are not the languages of {first.file} ({', '.join(sorted(first.scores))}); "
                    "score the seeds of a model on the same ones",
                )
            if run.language != first.language:
                raise UserError(
                    str(run.file),
                    run.language,
                    f"is not the language that {first.file} was trained on ({first.language}); "
                    "give the models different names",
                )
            if run.learning_rate != first.learning_rate:
                raise UserError(
                    str(run.file),
                    run.learning_rate,
                    f"is not the learning rate of {first.file} ({first.learning_rate:g}); runs of "
                    "a sweep are no seeds of one model, leave them out",
                )

    @property
    def model(self) -> str:
        """The model's name."""
        return self.runs[0].model

    @property
    def task(self) -> str:
        """The set's name, e.g. `udpos`."""
        return self.runs[0].task

    @property
    def languages(self) -> list[str]:
        """The one trained on first, the others by name."""
        return sorted(self.runs[0].scores, key=lambda each: (each != self.trained, each))

    @property
    def trained(self) -> str:
        """The language trained on."""
        return self.runs[0].language

    def statistic(self, metric: str, of: str) -> Statistic | None:
        """Over seeds; None if the model was not scored on that language (or on no other).

        Raises:
          UserError: a run lacks the metric.
        """
        if not (self.runs[0].zero_shot() if of == AVERAGE else of in self.runs[0].scores):
            return None
        values = [run.score(metric, of) for run in self.runs]
        std = statistics.stdev(values) if len(values) > 1 else None
        return Statistic(statistics.fmean(values), std, len(values))


def find(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The `scores.json` files in folders and below, each once, in the folders' order.

    Raises:
      UserError: a folder is none, or holds no such file.
    """
    files: dict[pathlib.Path, pathlib.Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError("RUNS", str(folder), "is no folder; name folders of fine-tuning runs")
        found = sorted(folder.rglob(SCORES_FILE))
        if not found:
            raise UserError("RUNS", str(folder), f"holds no {SCORES_FILE}: no run here is finished")
        for file in found:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def read(files: Sequence[pathlib.Path]) -> list[Result]:
    """Runs by model and task, in the order of the files.

    Raises:
      UserError: a file cannot be read, or its run does not fit the others of its group.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for file in files:
        run = _read(file)
        groups.setdefault((run.model, run.task), []).append(run)
    return [Result(tuple(sorted(runs, key=lambda run: run.seed))) for runs in groups.values()]


def _read(file: pathlib.Path) -> Run:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError("RUNS", str(file), f"cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError("RUNS", str(file), "holds no object of JSON, hence no scores")
    for key, kind in _KEYS.items():
        if not isinstance(content.get(key), kind):
            raise UserError(str(file), content.get(key), f"is no {key}: no file of a run's scores")
    scores = content["scores"]
    if not scores:
        raise UserError(str(file), scores, "has scores of no language")
    for language, metrics in scores.items():
        if not isinstance(metrics, dict) or not all(map(_is_score, metrics.values())):
            raise UserError(str(file), metrics, f"has no percentages as scores of {language}")
    language = content.get("language")
    if not isinstance(language, str):
        raise UserError(str(file), language, "is no language: no file of a run's scores")
    return Run(file, **{key: content[key] for key in _KEYS}, language=language)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
