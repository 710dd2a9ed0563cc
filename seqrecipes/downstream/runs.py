"""Runs a fine-tuning: seed after seed, each trained, scored with its best checkpoint, and cleared.

A run's folder has one folder a seed. A finished seed is skipped and a started one goes on, so that
the same command, given again, does what is left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence

import jax

from seqrecipes.config.finetuning import Finetuning
from seqrecipes.downstream import preparing, results, scoring, sources
from seqrecipes.downstream.preparing import Batches, Prepared
from seqrecipes.folders import SCORES_FILE, locked, write_file
from seqrecipes.training import checkpoints, compilation, environment, loop, reporting
from seqrecipes.training.checkpoints import Checkpoints
from seqrecipes.training.loop import Training

log = logging.getLogger(__name__)


class Run:
    """A fine-tuning in its folder.

    Args:
      finetuning: what to fine-tune, and how.
      model_dir: the run's folder.
      devices: by default all that are present.
    """

    def __init__(
        self,
        finetuning: Finetuning,
        model_dir: str,
        devices: Sequence[jax.Device] | None = None,
    ):
        environment.check()
        self.finetuning = finetuning
        self.model_dir = pathlib.Path(model_dir)
        self.mesh = finetuning.partitioning.mesh(devices)

    def describe(self) -> str:
        """Checks everything that needs no training; the fine-tuning in words. Nothing is kept."""
        with self._prepared(imports=None) as prepared:
            prepared.check_folder(self.model_dir)
            return "\n".join([str(prepared), *map(self._state, self.finetuning.seeds)])

    def execute(self, *, checked: Callable[[], None] | None = None) -> str:
        """Trains and scores what is left; the scores of all seeds in words.

        Args:
          checked: called after all checks, before anything is trained.

        Raises:
          UserError: something cannot work; nothing was trained.
          Interrupted: a signal came, and the state was saved.
        """
        with self._prepared(imports=self.model_dir) as prepared:
            if checked:
                checked()
            # Other seeds may begin in the same folder.
            with locked(self.model_dir, wait=True):
                prepared.claim(self.model_dir)
            log.info("%s", prepared)
            with compilation.kept(self.model_dir):
                for seed in self.finetuning.seeds:
                    with locked(self._folder(seed)):
                        self._execute(prepared, seed)
        return summary([self._scores(seed) for seed in self.finetuning.seeds])

    @contextlib.contextmanager
    def _prepared(self, imports: pathlib.Path | None) -> Iterator[Prepared]:
        """All checks done, and nothing written yet but what had to be imported."""
        from seqrecipes.data.vocabulary import Vocabulary

        with tempfile.TemporaryDirectory() as temporary:
            scratch = pathlib.Path(temporary)
            source = sources.find(self.finetuning, imports or scratch)
            file = scratch / "spm.model"
            file.write_bytes(source.vocabulary)
            yield preparing.prepare(self.finetuning, source, Vocabulary(str(file)), self.mesh)

    def _folder(self, seed: int) -> pathlib.Path:
        return self.model_dir / str(seed)

    def _scores(self, seed: int) -> pathlib.Path:
        return self._folder(seed) / SCORES_FILE

    def _state(self, seed: int) -> str:
        step = checkpoints.latest_step(self._folder(seed)) or 0
        return (
            f"  seed {seed}: {'finished' if self._scores(seed).exists() else f'at step {step:,}'}"
        )

    def _execute(self, prepared: Prepared, seed: int) -> None:
        folder, training = self._folder(seed), prepared.training(seed)
        if self._scores(seed).exists():
            log.info("seed %d: finished already, skipped", seed)
        else:
            if checkpoints.latest_step(folder) != training.steps:
                self._train(prepared, training, folder)
            self._score(prepared, training, folder)
        _clear(folder)

    def _train(self, prepared: Prepared, training: Training, folder: pathlib.Path) -> None:
        seed = training.seed
        folder.mkdir(parents=True, exist_ok=True)
        placement = training.partitioning.placement(self.mesh)
        loop.train(
            training,
            folder,
            mesh=self.mesh,
            initial_params=functools.partial(
                prepared.source.params, training.model, seed, placement
            ),
            batches=Batches(prepared, seed, prepared.validation),
            metadata={
                "model": training.model.config.to_dict(),
                "vocabulary": prepared.scorer.vocabulary.checksum,
                "finetuning": dataclasses.replace(prepared.facts, seed=seed).to_dict(),
                "converted_from": str(prepared.source.folder),
                "conversion": f"fine-tuning on {self.finetuning.set}",
                preparing.IDENTITY: prepared.identity(),
            },
            writers=functools.partial(_writers, folder),
            evaluation=prepared.evaluation(training, prepared.validation),
        )

    def _score(self, prepared: Prepared, training: Training, folder: pathlib.Path) -> None:
        """Scores the best checkpoint; only now are test splits and other languages read."""
        saved = Checkpoints(folder, training.checkpointing)
        best = saved.best()
        saved.close()
        assert best is not None  # the last step was validated
        step, validated = best
        params = checkpoints.restore_params(
            folder / checkpoints.FOLDER / str(step),
            training.shapes,
            training.partitioning.placement(self.mesh),
        )
        with training.partitioning.on(self.mesh):
            scores = scoring.score_languages(
                prepared.scorer,
                params,
                prepared.languages,
                "test",
                folder / scoring.PREDICTIONS,
            )
        content = scoring.content(prepared.facts, training.seed, step, validated, scores)
        write_file(folder / SCORES_FILE, content)
        log.info("seed %d: scored the checkpoint of step %s", training.seed, f"{step:,}")


def _writers(folder: pathlib.Path, start: int) -> list[reporting.Writer]:
    return [reporting.JsonLines(folder / reporting.METRICS_FILE, start)]


def _clear(folder: pathlib.Path) -> None:
    """Leaves of a scored seed the best checkpoint, without the state of the optimizer."""
    best = json.loads((folder / SCORES_FILE).read_text("utf-8"))["best_step"]
    for step in (folder / checkpoints.FOLDER).iterdir():
        shutil.rmtree(step if step.name != str(best) else step / "optimizer", ignore_errors=True)


def summary(files: Sequence[pathlib.Path]) -> str:
    """Mean and standard deviation over seeds: the language trained on, the mean of others."""
    lines = []
    for result in results.read(files):
        lines.append(f"{result.model} on {result.task}, {len(result.runs)} seeds: mean ± std")
        metrics = list(next(iter(result.runs[0].scores.values())))
        columns = [result.trained, results.AVERAGE]
        if result.trained not in result.languages:
            columns = result.languages
        for column in columns:
            cells = []
            for metric in metrics:
                if (found := result.statistic(metric, column)) is not None:
                    spread = "" if found.std is None else f" ± {found.std:.1f}"
                    cells.append(f"{metric} {found.mean:.1f}{spread}")
            if cells:
                lines.append(f"  {column:<7} {'  '.join(cells)}")
    return "\n".join(lines)
