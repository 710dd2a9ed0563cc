"""Protocol: models x tasks x seeds, each a run of `seqrecipes.finetune` in a process of its own.

Where learning rates are given, each task's is chosen first, by single runs of one model, and is
then the same for all models (Soltan et al. 2023, appendix C). What is finished is not done again,
so that the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import gin

from seqrecipes.config.check import Range, check_fields
from seqrecipes.config.finetuning import MINIMISED
from seqrecipes.downstream.jobs import Job
from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE, SCORES_FILE, check_writable, shipped

RUNS, RATES = "runs", "rates"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is to be fine-tuned on what.

    Attributes:
      model_dir: folder of everything.
      models: {name in tables: checkpoint}, or {name: {macro of gin/finetune/*.gin: value}}, as in
        {'random': {'CHECKPOINT': 'runs/roberta_12e/roberta_12e', 'WEIGHTS': 'random'}}.
      tasks: {name of a file in gin/finetune/: names of models}; no names are all models.
      seeds: of each model on each task.
      learning_rates: peaks to choose from for each task; empty takes those of the files.
      gin_files: read after the task's, for all runs.
      macros: {macro: value}, for all runs.
    """

    model_dir: str
    models: Mapping[str, str | Mapping[str, Any]]
    tasks: Mapping[str, Sequence[str]]
    seeds: Sequence[Annotated[int, Range(0, below=2**32)]] = (0, 1, 2)
    learning_rates: Sequence[Annotated[float, Range(above=0)]] = ()
    gin_files: Sequence[str] = ()
    macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "protocol")
        for field in ("model_dir", "models", "tasks", "seeds"):
            if not getattr(self, field):
                raise UserError(f"protocol.{field}", getattr(self, field), "names nothing")
        for task, names in self.tasks.items():
            file = _task_file(task)
            if not shipped(file).is_file():
                known = sorted(path.stem for path in (CLONE / "gin/finetune").glob("*.gin"))
                raise UserError("protocol.tasks", task, f"no {file}; there are {', '.join(known)}")
            if unknown := sorted(set(names) - self.models.keys()):
                raise UserError("protocol.tasks", unknown, f"models are {', '.join(self.models)}")

    def check(self) -> None:
        """Refuses a folder that cannot be written, and files and models that are not there.

        A model with which nothing is left to do may be gone.

        Raises:
          UserError: names it.
        """
        check_writable(self.model_dir, "protocol.model_dir")
        for file in self.gin_files:
            if not shipped(file).is_file():
                raise UserError("protocol.gin_files", file, "no such file")
        for macro, value in self.macros.items():
            folders = value.values() if isinstance(value, Mapping) else [value]
            for folder in folders if macro == "LABELLED_FILES" else ():
                if folder is not None and not pathlib.Path(str(folder)).expanduser().is_dir():
                    raise UserError("LABELLED_FILES", folder, "no such folder")
        for name in dict.fromkeys(self._models_left()):
            given = self.models[name]
            path = given if isinstance(given, str) else given.get("CHECKPOINT", "")
            if not path or not shipped(path).exists():
                remedy = f"there is no {path or 'CHECKPOINT'}; train it, or choose among models"
                raise UserError("protocol.models", name, remedy)

    def trials(self) -> list[Job]:
        """Single runs to choose learning rates by: one model, one seed, the language trained on."""
        return [
            self._job(task, self._models_of(task)[0], self.seeds[0], rate)
            for task in self.tasks
            for rate in self.learning_rates
        ]

    def rate(self, task: str) -> float | None:
        """The learning rate with the best score on the validation split; None is the task file's.

        Raises:
          UserError: a trial has no scores yet.
        """
        scored = {rate: self._validated(task, rate) for rate in self.learning_rates}
        if not scored:
            return None
        minimises = next(iter(scored.values()))[0] in MINIMISED
        sign = -1 if minimises else 1
        # Of equals the smallest.
        return max(sorted(scored), key=lambda rate: sign * scored[rate][1])

    def runs(self, rates: Mapping[str, float | None]) -> list[Job]:
        """The runs that count, at every task's `rate`."""
        return [
            self._job(task, model, seed, None, rates[task])
            for task in self.tasks
            for model in self._models_of(task)
            for seed in self.seeds
        ]

    @property
    def results(self) -> pathlib.Path:
        """Folder of the runs that count."""
        return pathlib.Path(self.model_dir, RUNS)

    def _models_left(self) -> Iterator[str]:
        """Those with which there is a run to do, with repetitions."""
        for task in self.tasks:
            for name in self._models_of(task):
                if not all(self._job(task, name, seed, None).done for seed in self.seeds):
                    yield name

    def _models_of(self, task: str) -> Sequence[str]:
        return self.tasks[task] or list(self.models)

    def _job(
        self, task: str, model: str, seed: int, trial: float | None, rate: float | None = None
    ) -> Job:
        given = self.models[model]
        own = {"CHECKPOINT": given} if isinstance(given, str) else given
        macros: dict[str, Any] = {**own, **self.macros, "NAME": model, "SEEDS": [seed]}
        scored = []
        if trial is None:
            folder = self.results / task / model
        else:
            folder = self._trial(task, trial)
            scored = ["--gin.LANGUAGES=[%LANGUAGE]"]
        if peak := trial or rate:
            macros["PEAK"] = peak
        macros["MODEL_DIR"] = str(folder)
        files = [_task_file(task), *self.gin_files]
        return Job(
            name=f"{task}, {model}, " + (f"seed {seed}" if trial is None else f"rate {trial:g}"),
            command=(
                *(sys.executable, "-m", "seqrecipes.finetune"),
                *(f"--gin_file={file}" for file in files),
                *(f"--gin.{macro}={value!r}" for macro, value in macros.items()),
                *scored,
            ),
            log=folder / f"log-{seed}.txt",
            result=folder / str(seed) / SCORES_FILE,
        )

    def _trial(self, task: str, rate: float) -> pathlib.Path:
        return pathlib.Path(self.model_dir, RATES, task, f"{rate:g}")

    def _validated(self, task: str, rate: float) -> tuple[str, float]:
        """(metric, score) of a trial on the validation split."""
        file = self._trial(task, rate) / str(self.seeds[0]) / SCORES_FILE
        if not file.is_file():
            raise UserError("protocol.learning_rates", rate, f"{file} is missing: its run failed")
        scores = json.loads(file.read_text("utf-8"))
        return scores["metric"], scores["validation"][scores["metric"]]


def described(protocol: Protocol) -> Iterator[str]:
    """What will be done, line by line."""
    for task in protocol.tasks:
        names = protocol._models_of(task)
        rates = ", ".join(f"{rate:g}" for rate in protocol.learning_rates)
        first = f", after trials of {names[0]} with {rates}" if rates else ""
        yield f"{task}: {', '.join(names)}, {len(protocol.seeds)} seeds{first}"


def _task_file(task: str) -> str:
    return f"gin/finetune/{task}.gin"


protocol = gin.external_configurable(Protocol, "protocol")
