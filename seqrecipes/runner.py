"""Runs a recipe: vocabulary, packed text, then stage after stage, each in its own folder.

A finished stage is skipped and a started one goes on, so that the same command, given again, does
what is left.
"""

from __future__ import annotations

import functools
import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
import jax
from jax.experimental import multihost_utils

from seqrecipes import describe, identity, samples
from seqrecipes import resolve as resolving
from seqrecipes.config.recipe import Recipe, Stage
from seqrecipes.conversion import warm_start
from seqrecipes.downstream import probing
from seqrecipes.errors import UserError
from seqrecipes.folders import check_writable, tidy, write_file
from seqrecipes.recipe import RECIPE_FILE
from seqrecipes.resolve import ResolvedStage
from seqrecipes.run_text import RunText
from seqrecipes.training import checkpoints, compilation, environment, loop, processes, reporting
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Probe, Training

if TYPE_CHECKING:
    from seqrecipes.data.blocks import Blocks
    from seqrecipes.data.stream import Stream

log = logging.getLogger(__name__)


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
        self.text = RunText(recipe, self.model_dir)
        from seqrecipes.data.registry import import_tasks

        import_tasks(recipe.tasks, "Recipe.tasks")
        with gin.unlock_config():
            gin.bind_parameter("pretraining_vocabulary.path", str(self.text.vocabulary_path))

    def resolve(self, blocks: Sequence[Blocks] = ()) -> list[ResolvedStage]:
        """Checks the recipe.

        Args:
          blocks: the packed text of every stage. Before there is any, source lengths are those of
            text without [DOC].
        """
        from seqrecipes.data.objectives.base import check_sentinels
        from seqrecipes.data.vocabulary import Vocabulary

        path = self.text.vocabulary_path
        vocabulary = None
        if self.recipe.vocabulary or path.exists():
            vocabulary = Vocabulary(str(path))

        def features(stage: Stage) -> Mapping[str, int]:
            objective, payload = self.text.task(stage).objective, self.text.payload(stage)
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
            original_tokens=self.text.original_tokens,
        )

    def check_folder(self, resolved: list[ResolvedStage]) -> None:
        """Refuses a folder of another recipe, or too small, and stages shared with another."""
        check_writable(self.model_dir, "train.model_dir")
        resolving.check_space(self.recipe, resolved, self.model_dir)
        # To look at all of the text takes a while, and there may be nothing to compare it with.
        said = self.model_dir / RECIPE_FILE
        if not said.exists() and not any(stage.folder.exists() for stage in resolved):
            return
        if said.exists() and not self.recipe.prepared:
            self.text.check_unchanged(identity.read(said)["corpus_fingerprint"])
        ours = self._identity(resolved)
        identity.check_folder(self.model_dir, ours, resolved)
        identity.check_shared(resolved, ours)

    def _checked(self) -> list[ResolvedStage]:
        """The stages, after every check that needs no packed text."""
        self.text.check_corpus()
        self.text.vocabulary().check()
        resolved = self.resolve()
        self.check_folder(resolved)
        probing.check(self.recipe.probes, [one.training.model.config for one in resolved])
        return resolved

    def describe(self) -> str:
        """Checks everything that needs no training; the resolved recipe in words."""
        resolved = self._checked()
        self.text.vocabulary().rehearse()
        trained = self.text.vocabulary_path.exists()
        return describe.resolved_recipe(
            self.recipe,
            resolved,
            model_dir=self.model_dir,
            mesh=self.mesh,
            vocabulary=str(self.text.vocabulary_path) if trained else "to be trained on the corpus",
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
        if jax.process_index() == 0:
            self.text.vocabulary().ensure()
        _barrier("vocabulary")
        self.resolve()
        blocks = [self.text.blocks(stage) for stage in self.recipe.stages]
        resolved = self.resolve(blocks)
        for stage, packed in zip(resolved, blocks, strict=True):
            self._validation(stage, packed).check_targets()
        self._claim(resolved, blocks[0])
        with compilation.kept(self.model_dir):
            for index, stage in enumerate(resolved):
                if chosen not in (None, index):
                    continue
                if not stage.shared and jax.process_index() == 0:
                    tidy(stage.folder)
                    checkpoints.discard(stage.folder)
                if stage.finished and (stage.shared or not self._probes_left(stage)):
                    log.info("%s: finished already, skipped", stage.stage.name)
                else:
                    self._train(stage, blocks[index])
                if self.recipe.predictions and not stage.shared:
                    self._predict(stage, blocks[index])
                if self.recipe.export_hf and not stage.shared:
                    self._export(stage)
        return resolved

    def _identity(
        self, resolved: list[ResolvedStage], packed: Blocks | None = None
    ) -> dict[str, Any]:
        """Of the text as it was packed; before it is, as it is now."""
        stage = self.recipe.stages[0]
        task = self.text.task(stage)
        packed = self.text.blocks(stage) if self.recipe.prepared else packed
        if packed:
            fingerprint, languages = packed.manifest["corpus_fingerprint"], packed.languages
        else:
            corpus = self.text.corpus()
            fingerprint, languages = corpus.fingerprint(), corpus.languages
        data = {
            "corpus_fingerprint": fingerprint,
            "languages": languages,
            "vocabulary": task.vocabulary.checksum if self.text.vocabulary_path.exists() else None,
        }
        streams = {
            each.name: {
                "noise": repr(self.text.task(each).objective),
                "join_pairs": self.text.task(each).join_pairs,
                "original_tokens": self.text.original_tokens(each),
            }
            for each in self.recipe.stages
        }
        return identity.identity(self.recipe, resolved, data, streams)

    def _claim(self, resolved: list[ResolvedStage], packed: Blocks) -> None:
        """Writes what this folder is for."""
        if jax.process_index() == 0:
            file = self.model_dir / RECIPE_FILE
            if not file.exists():
                write_file(file, json.dumps(self._identity(resolved, packed), indent=2) + "\n")
            write_file(self.model_dir / "config.gin", gin.config_str())
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
        objective = self.text.task(stage.stage).objective
        loader = Loader(
            training_stream(blocks, objective, alpha=recipe.smoothing, seed=training.seed),
            self._validation(stage, blocks),
            training.batch_size,
            parts.local_rows(training.batch_size, self.mesh),
        )
        first = jax.process_index() == 0
        if first:
            facts = describe.stage_facts(stage) | {"unigram_entropy": blocks.unigram_entropy()}
            write_file(stage.folder / describe.STAGE_FILE, json.dumps(facts, indent=2) + "\n")
            write_file(stage.folder / "model-info.txt", describe.model_info(stage))
        _barrier(stage.stage.name)

        def writers(start: int) -> list[reporting.Writer]:
            if not first:
                return []
            lines = reporting.JsonLines(stage.folder / reporting.METRICS_FILE, start)
            return [lines, reporting.TensorBoard(stage.folder)]

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
        vocabulary = Vocabulary(str(self.text.vocabulary_path))
        probes = probing.Probes(suited, config, vocabulary, training.partitioning, self.mesh)
        return Probe(self.recipe.probe_every, probes.look)

    def _validation(self, stage: ResolvedStage, blocks: Blocks) -> Stream:
        """What a stage is validated on."""
        from seqrecipes.data.stream import validation_stream

        return validation_stream(
            blocks,
            self.text.task(stage.stage).objective,
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
            Vocabulary(str(self.text.vocabulary_path)),
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

            hugging_face.export_stage(stage.folder, vocabulary=str(self.text.vocabulary_path))
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
