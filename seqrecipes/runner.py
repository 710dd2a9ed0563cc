"""Runs a recipe: vocabulary, packed text, then stage after stage, each in its own folder.

A finished stage is skipped and a started one goes on, so that the same command, given again, does
what is left.
"""

from __future__ import annotations

import functools
import json
import logging
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
import jax
from jax.experimental import multihost_utils

from seqrecipes import describe, identity, samples
from seqrecipes import resolve as resolving
from seqrecipes.config.recipe import Recipe, Stage
from seqrecipes.conversion import warm_start
from seqrecipes.downstream import probing, scoring
from seqrecipes.errors import UserError
from seqrecipes.folders import check_writable
from seqrecipes.recipe import RECIPE_FILE
from seqrecipes.resolve import ResolvedStage
from seqrecipes.training import checkpoints, compilation, environment, loop, processes, reporting
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Probe, Training

if TYPE_CHECKING:
    from seqrecipes.data.blocks import Blocks
    from seqrecipes.data.stream import Stream
    from seqrecipes.data.tasks import PretrainingTask

log = logging.getLogger(__name__)

_LEAST_SENTINELS = 101  # as many as DeltaLM has, where an objective needs any


class Run:
    """A recipe in its folder.

    Args:
      recipe: what to train.
      model_dir: the run's folder.
      devices: by default all that are present.
    """

    def __init__(
        self,
        recipe: Recipe,
        model_dir: str,
        devices: Sequence[jax.Device] | None = None,
    ):
        environment.check()
        self.recipe = recipe
        self.model_dir = pathlib.Path(model_dir)
        self.mesh = recipe.partitioning.mesh(devices)
        source = recipe.shared[0] if recipe.shared else model_dir
        self.vocabulary_path = pathlib.Path(
            recipe.vocabulary or pathlib.Path(source, "vocabulary", "spm.model")
        )
        # Stages that read the same share it; looking at many shards takes a while.
        self._blocks: dict[tuple[str, int], Blocks] = {}
        from seqrecipes.data.tasks import import_tasks

        import_tasks(recipe.tasks, "Recipe.tasks")
        with gin.unlock_config():
            gin.bind_parameter("pretraining_vocabulary.path", str(self.vocabulary_path))

    def task(self, stage: Stage) -> PretrainingTask:
        """The seqio task of a stage."""
        from seqrecipes.data import tasks

        return tasks.get_task(self.recipe.corpus, stage.objective)

    def payload(self, stage: Stage) -> int:
        """The most tokens of a segment of a stage's records."""
        return self.task(stage).objective.payload(self.recipe.sequence_length)

    def ensure_vocabulary(self) -> None:
        """Puts the vocabulary into the folder, trained on the corpus if the recipe names none."""
        file = self.model_dir / "vocabulary" / "spm.model"
        if jax.process_index() == 0 and not file.exists():
            if self.vocabulary_path != file:
                file.parent.mkdir(parents=True, exist_ok=True)
                temporary = shutil.copyfile(self.vocabulary_path, file.with_suffix(".tmp"))
                temporary.replace(file)
            else:
                self._train_vocabulary(file.parent)
        _barrier("vocabulary")

    def _train_vocabulary(self, folder: pathlib.Path) -> None:
        from seqrecipes.data import vocabulary

        size = self.recipe.vocabulary_size
        needed = max(
            self.task(stage).objective.sentinels(self.payload(stage))
            for stage in self.recipe.stages
        )
        sentinels = needed and max(needed, _LEAST_SENTINELS)
        log.info("training a vocabulary of %s ids, %s of them sentinels", f"{size:,}", sentinels)
        corpus = self.task(self.recipe.stages[0]).source.corpus
        texts = vocabulary.sample_texts(corpus, self.recipe.smoothing)
        vocabulary.train_vocabulary(texts, size, folder, sentinels=sentinels)

    def check_corpus(self) -> None:
        """Reads the first training document of every language, or finds what was prepared."""
        if self.recipe.prepared:
            for stage in self.recipe.stages:
                self.blocks(stage)
            return
        from seqrecipes.data.corpora.corpus import texts

        corpus = self.task(self.recipe.stages[0]).source.corpus
        for language in corpus.languages:
            if next(filter(None, texts(corpus, language, "train")), None) is None:
                raise UserError("corpus", self.recipe.corpus, f"no text in language {language}")

    def blocks(self, stage: Stage) -> Blocks:
        """The packed text of a stage, prepared now where it was not before.

        Raises:
          UserError: the text cannot be used, or what was prepared does not suit the stage.
        """
        from seqrecipes.data.blocks import find_prepared, wanted_records
        from seqrecipes.data.preparation import prepare_blocks

        task, payload = self.task(stage), self.payload(stage)
        key = (task.objective.reads, payload)
        if key not in self._blocks:
            self._blocks[key] = (
                find_prepared(self.recipe.prepared, wanted_records(task, payload))
                if self.recipe.prepared
                else prepare_blocks(task, payload, self.model_dir / "data")
            )
        return self._blocks[key]

    def resolve(self, blocks: Sequence[Blocks] = ()) -> list[ResolvedStage]:
        """Checks the recipe.

        Args:
          blocks: the packed text of every stage. Before there is any, source lengths are those of
            text without [DOC].
        """
        from seqrecipes.data.objectives.base import check_sentinels
        from seqrecipes.data.vocabulary import Vocabulary

        path = self.vocabulary_path
        vocabulary = None
        if self.recipe.vocabulary or path.exists():
            vocabulary = Vocabulary(str(path))

        def features(stage: Stage) -> Mapping[str, int]:
            objective, payload = self.task(stage).objective, self.payload(stage)
            if vocabulary:
                check_sentinels(objective, payload, vocabulary.specials)
            packed = blocks[self.recipe.index(stage.name)] if blocks else None
            return objective.lengths(payload, packed.max_specials if packed else 0)

        return resolving.resolve(
            self.recipe,
            self.model_dir,
            self.mesh,
            vocab_size=vocabulary.size if vocabulary else self.recipe.vocabulary_size,
            vocabulary=vocabulary.checksum if vocabulary else None,
            features=features,
        )

    def check_folder(self, resolved: list[ResolvedStage]) -> None:
        """Refuses a folder of another recipe, or too small, and stages shared with another."""
        check_writable(self.model_dir, "train.model_dir")
        resolving.check_space(self.recipe, resolved, self.model_dir)
        ours = self._identity(resolved)
        identity.check_folder(self.model_dir, ours, resolved)
        identity.check_shared(resolved, ours)

    def _checked(self) -> list[ResolvedStage]:
        """The stages, after every check that needs no packed text."""
        self.check_corpus()
        resolved = self.resolve()
        self.check_folder(resolved)
        probing.check(self.recipe.probes, [one.training.model.config for one in resolved])
        return resolved

    def describe(self) -> str:
        """Checks everything that needs no training; the resolved recipe in words."""
        resolved = self._checked()
        trained = self.vocabulary_path.exists()
        return describe.resolved_recipe(
            self.recipe,
            resolved,
            model_dir=self.model_dir,
            mesh=self.mesh,
            vocabulary=str(self.vocabulary_path) if trained else "to be trained on the corpus",
        )

    def execute(
        self, only: str | None = None, *, checked: Callable[[], None] | None = None
    ) -> list[ResolvedStage]:
        """Trains what is left of the recipe, or of one of its stages.

        Args:
          only: name of the stage; None is all of them.
          checked: called after all checks, before anything is written.

        Raises:
          UserError: something cannot work; nothing was trained.
          Interrupted: a signal came, and the state was saved.
        """
        chosen = None if only is None else self.recipe.index(only)
        resolved = self._checked()
        if checked:
            checked()
        ours = json.dumps(self._identity(resolved), indent=1)
        processes.agree(f"{gin.config_str()}\n{only}\n{ours}")  # before any process writes
        with processes.locked(self.model_dir):
            return self._execute(chosen)

    def _execute(self, chosen: int | None) -> list[ResolvedStage]:
        self.ensure_vocabulary()
        self.resolve()
        blocks = [self.blocks(stage) for stage in self.recipe.stages]
        resolved = self.resolve(blocks)
        self._claim(resolved)
        with compilation.kept(self.model_dir):
            for index, stage in enumerate(resolved):
                if chosen not in (None, index):
                    continue
                if stage.finished and (stage.shared or not self._probes_left(stage)):
                    log.info("%s: finished already, skipped", stage.stage.name)
                else:
                    self._train(stage, blocks[index])
                if self.recipe.predictions and not stage.shared:
                    self._predict(stage, blocks[index])
                if self.recipe.export_hf and not stage.shared:
                    self._export(stage)
        return resolved

    def _identity(self, resolved: list[ResolvedStage]) -> dict[str, Any]:
        stage = self.recipe.stages[0]
        task = self.task(stage)
        if self.recipe.prepared:
            manifest = self.blocks(stage).manifest
            fingerprint, languages = manifest["corpus_fingerprint"], manifest["languages"]
        else:
            corpus = task.source.corpus
            fingerprint, languages = corpus.fingerprint(), corpus.languages
        data = {
            "corpus_fingerprint": fingerprint,
            "languages": languages,
            "vocabulary": task.vocabulary.checksum if self.vocabulary_path.exists() else None,
        }
        streams = {
            each.name: {
                "noise": repr(self.task(each).objective),
                "join_pairs": self.task(each).join_pairs,
            }
            for each in self.recipe.stages
        }
        return identity.identity(self.recipe, resolved, data, streams)

    def _claim(self, resolved: list[ResolvedStage]) -> None:
        """Writes what this folder is for."""
        if jax.process_index() == 0:
            file = self.model_dir / RECIPE_FILE
            if not file.exists():
                scoring.write(file, json.dumps(self._identity(resolved), indent=2) + "\n")
            scoring.write(self.model_dir / "config.gin", gin.config_str())
        _barrier("claimed")

    def _train(self, stage: ResolvedStage, blocks: Blocks) -> None:
        from seqrecipes.data.loader import Loader
        from seqrecipes.data.stream import training_stream

        recipe, training = self.recipe, stage.training
        if stage.source and stage.source.stage:
            source = checkpoints.latest_step(stage.source.folder)
            steps = recipe.stages[recipe.index(stage.source.stage)].steps
            if source != steps:
                raise UserError(
                    "WarmStart.source",
                    stage.source.stage,
                    f"that stage stands at step {source or 0} of {steps}; train it first",
                )
        objective = self.task(stage.stage).objective
        loader = Loader(
            training_stream(blocks, objective, alpha=recipe.smoothing, seed=training.seed),
            self._validation(stage, blocks),
            training.batch_size,
            parts.local_rows(training.batch_size, self.mesh),
        )
        first = jax.process_index() == 0
        if first:
            facts = describe.stage_facts(stage) | {"unigram_entropy": blocks.unigram_entropy()}
            scoring.write(stage.folder / describe.STAGE_FILE, json.dumps(facts, indent=2) + "\n")
            scoring.write(stage.folder / "model-info.txt", describe.model_info(stage))
        _barrier(stage.stage.name)

        def writers(start: int) -> list[reporting.Writer]:
            if not first:
                return []
            # clu brings TensorFlow, which the training room does without.
            from clu import metric_writers

            lines = reporting.JsonLines(stage.folder / reporting.METRICS_FILE, start)
            return [lines, metric_writers.SummaryWriter(str(stage.folder))]

        loop.train(
            training,
            stage.folder,
            mesh=self.mesh,
            initial_params=functools.partial(self._initial_params, stage),
            batches=loader,
            metadata={
                "stage": stage.stage.name,
                "objective": stage.stage.objective,
                "model": training.model.config.to_dict(),
                "vocabulary": blocks.vocabulary_checksum,
                "recipe": json.loads((self.model_dir / RECIPE_FILE).read_text("utf-8")),
            },
            writers=writers,
            probe=self._probe(training),
        )

    def _probe(self, training: Training) -> Probe | None:
        """The probes that suit a stage's model."""
        from seqrecipes.data.vocabulary import Vocabulary

        config = training.model.config
        suited = probing.of_model(self.recipe.probes, config)
        if not suited:
            return None
        vocabulary = Vocabulary(str(self.vocabulary_path))
        probes = probing.Probes(suited, config, vocabulary, training.partitioning, self.mesh)
        return Probe(self.recipe.probe_every, probes.look)

    def _validation(self, stage: ResolvedStage, blocks: Blocks) -> Stream:
        """What a stage is validated on."""
        from seqrecipes.data.stream import validation_stream

        return validation_stream(
            blocks,
            self.task(stage.stage).objective,
            seed=stage.training.seed,
            max_examples=self.recipe.validation_examples or None,
        )

    def _predict(self, stage: ResolvedStage, blocks: Blocks) -> None:
        """Writes a few predictions of a finished stage, where that was not done before."""
        from seqrecipes.data.vocabulary import Vocabulary

        samples.write(
            stage.folder,
            stage.training,
            self.mesh,
            self._validation(stage, blocks),
            Vocabulary(str(self.vocabulary_path)),
            self.recipe.predictions,
        )

    def _probes_left(self, stage: ResolvedStage) -> bool:
        """Whether the look at the last step is still to come."""
        suited = probing.of_model(self.recipe.probes, stage.training.model.config)
        return bool(suited) and "probes" not in stage.reported

    def _export(self, stage: ResolvedStage) -> None:
        """Writes a finished stage in Hugging Face's format, where that was not done before."""
        if jax.process_index() == 0:
            from seqrecipes import hugging_face

            hugging_face.export_stage(stage.folder, vocabulary=str(self.vocabulary_path))
        _barrier(f"{stage.stage.name} exported")

    def _initial_params(self, stage: ResolvedStage) -> dict[str, Any]:
        if stage.source is None:
            return stage.training.random_params(self.mesh)
        source, training = stage.source, stage.training
        params, account = warm_start.from_checkpoint(
            source.conversion,
            checkpoints.find(source.folder, field="WarmStart.source"),
            source.shapes,
            initialise=training.initial_values,
            placement=training.partitioning.placement(self.mesh),
        )
        log.info("%s: warm start from %s\n%s", stage.stage.name, source.folder, account)
        if jax.process_index() == 0:
            (stage.folder / "warm-start.txt").write_text(f"{account}\n", "utf-8")
        return params


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
