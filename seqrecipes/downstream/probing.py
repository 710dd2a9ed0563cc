"""Probes: what a model in pre-training is worth, by fine-tuning it as it stands on small tasks.

Every look begins anew from the parameters of the moment, with the same heads, examples and dropout;
what differs between two looks is the pre-training between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.config.finetuning import TRAINED, Finetuning
from seqrecipes.config.training import Partitioning
from seqrecipes.conversion import warm_start
from seqrecipes.downstream import checking, preparing, results
from seqrecipes.downstream.preparing import Prepared
from seqrecipes.downstream.sources import Source
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.step import TrainState, enter_phase

if TYPE_CHECKING:
    from seqrecipes.data.labelled.records import LabelledSplit
    from seqrecipes.data.vocabulary import Vocabulary

SPLIT: LabelledSplit = "validation"  # tests are not for looking at while choices are made


def check(probes: Sequence[Finetuning], configs: Sequence[ModelConfig]) -> None:
    """Refuses what cannot be probed, before anything is trained.

    Args:
      probes: of a recipe.
      configs: of the models of its stages.

    Raises:
      UserError: whatever cannot work, by field.
    """
    for probe in probes:
        for field in ("checkpoint", "name", "size", "vocabulary", "model_overrides"):
            if value := getattr(probe, field):
                raise UserError(
                    f"Finetuning.{field}", value, "a probe takes the stage as it stands; leave out"
                )
        if probe.weights != TRAINED:
            raise UserError("Finetuning.weights", probe.weights, f"a probe's are '{TRAINED}'")
        suited = [config for config in configs if of_model([probe], config)]
        if not suited:
            raise UserError(
                "Recipe.probes",
                probe.set,
                "is to be generated, and no stage of the recipe has a decoder",
            )
        for config in suited:
            checking.check(probe, config, SPLIT)


def of_model(probes: Sequence[Finetuning], config: ModelConfig) -> list[Finetuning]:
    """The probes that a model can be fine-tuned on: without a decoder it generates nothing."""
    return [
        probe
        for probe in probes
        if config.decoder_layers or checking.find_set(probe).kind != "generation"
    ]


class Probes:
    """All probes of a stage.

    Args:
      probes: those of its model.
      config: of its model.
      vocabulary: that it is trained with.
      partitioning: lays out the models; batches of probes are not split further.
      mesh: devices.

    Raises:
      UserError: one of them cannot work.
    """

    def __init__(
        self,
        probes: Sequence[Finetuning],
        config: ModelConfig,
        vocabulary: Vocabulary,
        partitioning: Partitioning,
        mesh: Mesh,
    ):
        whole = dataclasses.replace(partitioning, micro_batches=1)
        source = Source("", config, vocabulary.sp_model, None)
        self._probes = [
            _Probe(
                preparing.prepare(
                    dataclasses.replace(probe, partitioning=whole), source, vocabulary, mesh, SPLIT
                )
            )
            for probe in probes
        ]

    def look(self, params: tree.Tree) -> dict[str, float]:
        """{`set.metric/language`: value} of parameters of the stage, which are left as they are."""
        found: dict[str, float] = {}
        for probe in self._probes:
            found |= probe.look(params)
        return found


class _Probe:
    """One probe. Its examples, and its programs once they are compiled, serve every look."""

    def __init__(self, prepared: Prepared):
        self._prepared = prepared
        trainings = [prepared.training(seed) for seed in prepared.finetuning.seeds]
        account = prepared.source.plan(prepared.scorer.model)
        self._seeds = [
            (
                training,
                _compile_start(account, training, prepared.mesh),
                training.compile_step(training.spans[0], prepared.mesh),
            )
            for training in trainings
        ]
        # The language trained on was read to select by.
        examples = {prepared.finetuning.language: prepared.validation}
        self._evaluations = {
            language: prepared.evaluation(
                trainings[0], examples.get(language) or prepared.scorer.read(language, SPLIT)
            )
            for language in prepared.languages
        }

    def look(self, params: tree.Tree) -> dict[str, float]:
        """Means over seeds, by language, and the mean over all languages but the trained one."""
        finetuning = self._prepared.finetuning
        of_seeds = [self._scores(self._fine_tuned(params, *seed)) for seed in self._seeds]
        values = {
            language: float(np.mean([scores[language] for scores in of_seeds]))
            for language in self._evaluations
        }
        if others := results.zero_shot(values, finetuning.language):
            values[results.AVERAGE] = float(np.mean([values[name] for name in others]))
        title = f"{finetuning.set}.{finetuning.metric}"
        return {f"{title}/{name}": value for name, value in values.items()}

    def _scores(self, tuned: tree.Tree) -> dict[str, float]:
        metric = self._prepared.finetuning.metric
        return {
            language: evaluate(tuned)[metric] for language, evaluate in self._evaluations.items()
        }

    def _fine_tuned(
        self, params: tree.Tree, training: Training, start: Any, update: Any
    ) -> tree.Tree:
        state, before = start(params), None
        for local in self._prepared.train_batches(training.seed, 0, training.steps):
            batch = parts.global_batch(local, training.batch_size, self._prepared.mesh)
            state, metrics = update(state, batch)
            # The host stays one update ahead and no more: batches on the devices take memory.
            jax.block_until_ready(before)
            before = metrics
        return state.params


def _compile_start(account: warm_start.Account, training: Training, mesh: Mesh) -> Any:
    """The jitted function from a stage's parameters to the state a fine-tuning begins with."""
    (span,) = training.spans

    def start(params: tree.Tree) -> TrainState:
        begin = warm_start.convert(params, account=account, initialise=training.initial_values)
        state = TrainState(jnp.zeros((), jnp.int32), begin, {})
        return enter_phase(state, span, training.optimizer)

    return jax.jit(start, out_shardings=training.layout(span, mesh))
