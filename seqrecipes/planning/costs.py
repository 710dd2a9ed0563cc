"""Costs of recipes: by the rule of Soltan et al. 2023, by FLOPs, and beside those from scratch.

Everything here follows from resolved recipes; nothing is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from jax.sharding import Mesh

from seqrecipes import describe
from seqrecipes.resolve import ResolvedStage
from seqrecipes.training import flops
from seqrecipes.training.phases import ENCODER


@dataclasses.dataclass(frozen=True)
class Plan:
    """One recipe with its costs.

    Attributes:
      name: the recipe's, as its file is called.
      stages: resolved, in order.
      mesh: the devices that it is planned for.
    """

    name: str
    stages: Sequence[ResolvedStage]
    mesh: Mesh

    @functools.cached_property
    def facts(self) -> list[dict[str, Any]]:
        """Facts of every stage, as its folder will have them."""
        return [describe.stage_facts(stage) for stage in self.stages]

    @property
    def training_units(self) -> float:
        """TU by the paper's rule."""
        return sum(facts["training_units"] for facts in self.facts)

    @property
    def flops(self) -> float:
        """Model FLOPs of the whole recipe."""
        return sum(map(stage_flops, self.facts))


def stage_flops(facts: dict[str, Any]) -> float:
    """FLOPs of a stage, from its facts."""
    return sum(map(describe.phase_flops, facts["phases"]))


def updates(plan: Plan) -> tuple[list[int], list[int]]:
    """Updates of an encoder and of a decoder, one number for each phase that trains it.

    Table 1 of Soltan et al. 2023 counts the updates of a frozen encoder for the decoder alone.
    """
    encoder, decoder = [], []
    for stage in plan.stages:
        for span in stage.training.spans:
            steps = span.stop - span.start
            if any(path.split("/")[0] in ENCODER for path in span.cohorts):
                encoder.append(steps)
            if any(path.startswith("decoder/") for path in span.cohorts):
                decoder.append(steps)
    return encoder, decoder


def from_scratch(plan: Plan, plans: Iterable[Plan]) -> list[tuple[str, dict[str, Any]]] | None:
    """What the models of a recipe cost if each was trained on its own.

    For every kind of model that the recipe makes, an encoder and a seq2seq model, the plan of a
    single stage without warm start that makes one of the same shape.

    Args:
      plan: the recipe.
      plans: where to look for recipes from scratch.

    Returns:
      (name of a recipe, facts of its stage) for each kind of model. None if the recipe makes one
      model only, or one that none of the plans makes from scratch.
    """
    shapes = {_shape(stage) for stage in plan.stages}
    if len(shapes) < 2:
        return None
    scratch: dict[tuple[int, ...], tuple[str, dict[str, Any]]] = {}
    for other in plans:
        if len(other.stages) == 1 and other.stages[0].source is None:
            scratch.setdefault(_shape(other.stages[0]), (other.name, other.facts[0]))
    return [scratch[shape] for shape in sorted(shapes)] if shapes <= scratch.keys() else None


def _shape(stage: ResolvedStage) -> tuple[int, ...]:
    config = stage.training.model.config
    return (config.decoder_layers, config.encoder_layers, config.hidden_size, config.mlp_size)


def distinct(plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Facts of the stages of several recipes, each stage that some share once."""
    found: list[dict[str, Any]] = []
    for plan in plans:
        found += [facts for facts in plan.facts if facts not in found]
    return found


def units_by_flops(amount: float) -> float:
    """FLOPs in TU: see `seqrecipes.training.flops.TRAINING_UNIT`."""
    return amount / flops.TRAINING_UNIT
