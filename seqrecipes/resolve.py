"""From a recipe as written to stages that can run: every check that needs no training.

A resolved recipe knows its models, parameter counts, features and mesh. Resolving finds what can be
found before any compute is spent: wrong names, shapes, batches, conversions, freeze patterns.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from seqrecipes import models, tree
from seqrecipes.config.recipe import Recipe, Stage
from seqrecipes.conversion import warm_start
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.models import config as model_config
from seqrecipes.recipe import RECIPE_FILE, training_units
from seqrecipes.training import checkpoints, optimizer, reporting
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.phases import Span
from seqrecipes.training.step import split_params


@dataclasses.dataclass(frozen=True)
class Source:
    """What a stage is warm-started from.

    Attributes:
      conversion: name of the conversion.
      stage: name of the recipe's stage, or None for a checkpoint from elsewhere.
      folder: a stage's folder or a checkpoint's.
      config: the source model.
    """

    conversion: str
    stage: str | None
    folder: pathlib.Path
    config: ModelConfig

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """Nested dictionary of the source's shapes."""
        return models.parameter_shapes(self.config)


@dataclasses.dataclass(frozen=True)
class ResolvedStage:
    """A stage with all that follows from it.

    Attributes:
      stage: as written.
      training: how it is trained.
      source: what it is warm-started from, if anything.
      folder: where it lives.
      shared: it is another run's, and taken from there.
    """

    stage: Stage
    training: Training
    source: Source | None
    folder: pathlib.Path
    shared: bool

    @property
    def training_units(self) -> float:
        """TU of the stage alone."""
        training = self.training
        return training_units(training.model.config, training.spans, training.tokens_per_update)

    @property
    def finished(self) -> bool:
        """Whether its last checkpoint is there, and was validated."""
        steps = self.training.steps
        return checkpoints.latest_step(self.folder) == steps and "validation" in self.reported

    @property
    def reported(self) -> dict[str, dict[str, float]]:
        """What was reported of the last step."""
        return reporting.reported(self.folder / reporting.METRICS_FILE, self.training.steps)

    def counts(self, span: Span) -> dict[str, tuple[int, int]]:
        """Trainable and frozen parameters of a phase, by top-level name."""
        parts = jax.eval_shape(lambda params: split_params(params, span), self.training.shapes)
        counts = {name: [0, 0] for name in self.training.shapes}
        for index, part in enumerate(parts):
            for path, leaf in part.items():
                counts[path.split("/")[0]][index] += leaf.size
        return {name: (trainable, frozen) for name, (trainable, frozen) in counts.items()}

    @property
    def checkpoint_bytes(self) -> int:
        """Largest size of one checkpoint: parameters and two moments of what trains, float32."""
        return max(
            4 * sum(3 * trainable + frozen for trainable, frozen in self.counts(span).values())
            for span in self.training.spans
        )


def resolve(
    recipe: Recipe,
    model_dir: pathlib.Path,
    mesh: Mesh,
    *,
    vocab_size: int,
    vocabulary: str | None,
    features: Callable[[Stage], Mapping[str, int]],
    original_tokens: Callable[[Stage], int],
) -> list[ResolvedStage]:
    """Resolves and checks every stage.

    Args:
      recipe: as written.
      model_dir: the run's folder.
      mesh: devices.
      vocab_size: ids of the vocabulary.
      vocabulary: its checksum, or None if it is still to be trained.
      features: {feature: static length} of a stage's batches.
      original_tokens: how many tokens of text an example of a stage is made of, at most.

    Raises:
      UserError: whatever cannot work, by field.
    """
    resolved: list[ResolvedStage] = []
    folders = _shared_folders(recipe)
    for index, stage in enumerate(recipe.stages):
        config = _model(stage, vocab_size)
        if recipe.sequence_length > config.max_positions:
            raise UserError(
                "Recipe.sequence_length",
                recipe.sequence_length,
                f"{stage.model} has {config.max_positions} positions",
            )
        model = models.build(config)
        training = Training(
            name=stage.name,
            model=model,
            features=features(stage),
            phases=stage.phases,
            optimizer=stage.optimizer,
            partitioning=recipe.partitioning,
            checkpointing=recipe.checkpointing,
            batch_size=stage.batch_size,
            tokens_per_update=stage.batch_size * original_tokens(stage),
            seed=recipe.seed + index,
            logits_tile=recipe.logits_tile,
            log_every=recipe.log_every,
            validate_every=recipe.validate_every,
            skip_nonfinite=recipe.skip_nonfinite,
            minimised=stage.loss,
        )
        _check_features(stage, model, training.features)
        for span in training.spans:
            count = training.micro_batches(span)
            parts.check_batch(stage.batch_size, count, mesh, field="Stage.batch_size")
        optimizer.schedule(stage.optimizer, stage.steps)
        optimizer.check_rules(stage.optimizer, tree.flatten(training.shapes))
        recipe.partitioning.parameter_shardings(training.shapes, mesh)
        resolved.append(
            ResolvedStage(
                stage=stage,
                training=training,
                source=_source(stage, config, resolved, vocabulary),
                folder=folders.get(stage.name, model_dir / stage.name),
                shared=stage.name in folders,
            )
        )
    return resolved


def check_space(recipe: Recipe, resolved: Sequence[ResolvedStage], model_dir: pathlib.Path) -> None:
    """Refuses a disk that cannot hold the checkpoints of a stage that is still to be trained."""
    keep = recipe.checkpointing.keep + 1
    unfinished = [stage.checkpoint_bytes for stage in resolved if not stage.finished]
    checkpoints.check_space(model_dir, keep * max(unfinished, default=0))


def _shared_folders(recipe: Recipe) -> dict[str, pathlib.Path]:
    """{name of a stage: its folder in another run, from which it is taken}.

    Raises:
      UserError: a folder is no run, or has none of the recipe's stages.
    """
    folders: dict[str, pathlib.Path] = {}
    for run in map(pathlib.Path, recipe.shared):
        if not (run / RECIPE_FILE).is_file():
            raise UserError("Recipe.shared", str(run), f"holds no run: there is no {RECIPE_FILE}")
        found = {s.name: run / s.name for s in recipe.stages if (run / s.name).is_dir()}
        if not found:
            names = ", ".join(stage.name for stage in recipe.stages)
            raise UserError("Recipe.shared", str(run), f"has none of the stages {names}")
        folders = found | folders
    return folders


def _model(stage: Stage, vocab_size: int) -> ModelConfig:
    """The stage's model: of a file in `configs/`, or of a checkpoint."""
    if pathlib.Path(stage.model).is_dir():
        folder = checkpoints.find(stage.model, field="Stage.model")
        values = checkpoints.read_metadata(folder)["model"]
        config = ModelConfig.from_dict(values, field="Stage.model")
        config = model_config.override(config, stage.model_overrides)
    else:
        config = model_config.load(
            stage.model, size=stage.size, vocab_size=vocab_size, overrides=stage.model_overrides
        )
    if config.vocab_size < vocab_size:
        raise UserError(
            "vocab_size", config.vocab_size, f"the vocabulary has {vocab_size} pieces; have as many"
        )
    return config


def _check_features(stage: Stage, model: models.LanguageModel, features: Mapping[str, int]) -> None:
    if model.TARGETS not in features:
        kind = "a seq2seq model" if model.config.decoder_layers else "an encoder"
        raise UserError(
            "Stage.objective",
            stage.objective,
            f"makes {', '.join(features)}; {stage.model} is {kind} and needs {model.TARGETS}",
        )


def _source(
    stage: Stage, config: ModelConfig, earlier: list[ResolvedStage], vocabulary: str | None
) -> Source | None:
    if stage.warm_start is None:
        return None
    name, conversion = stage.warm_start.source, stage.warm_start.conversion
    for other in earlier:
        if other.stage.name == name:
            source = Source(conversion, name, other.folder, other.training.model.config)
            theirs = vocabulary
            break
    else:
        if "/" not in name and not pathlib.Path(name).exists():
            known = ", ".join(other.stage.name for other in earlier) or "none"
            raise UserError(
                "WarmStart.source", name, f"neither an earlier stage ({known}) nor a path"
            )
        folder = checkpoints.find(name, field="WarmStart.source")
        metadata = checkpoints.read_metadata(folder)
        source = Source(
            conversion, None, folder, ModelConfig.from_dict(metadata["model"], field=str(folder))
        )
        theirs = metadata["vocabulary"]
    warm_start.check(
        conversion,
        source.config,
        config,
        source_vocabulary=str(theirs),
        target_vocabulary=str(vocabulary),
    )
    warm_start.plan(conversion, source.shapes, models.parameter_shapes(config))
    return source
