"""Phases of a stage: spans of steps that differ in which parameters are frozen.

Schedule and data run on across phases. What a phase unfreezes joins a cohort of its own, with
fresh moments and a fresh count: with the count of the others, Adam's bias correction would be
about 1 while the new moments are still 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqrecipes import tree
from seqrecipes.config.recipe import LAYERS, Phase
from seqrecipes.errors import UserError
from seqrecipes.training import slices

# All that an encoder's states are computed from.
ENCODER = ("encoder", "token_embedding")
# What the lowest of its layers is computed from.
BELOW = ("token_embedding", "encoder/embedding")


@dataclasses.dataclass(frozen=True)
class Span:
    """A phase placed in its stage.

    A parameter's name is its path. Only in a stage that has a phase with `frozen_encoder_layers`
    are the encoder's stacked layers named by slices (`training.slices`), alike in all its phases.

    Attributes:
      index: position of the phase.
      start: first step.
      stop: step after the last.
      cohorts: {name of a trainable parameter: index of the phase since which it is trainable}.
      frozen: names of the frozen parameters.
      encoder_dropout: whether the encoder is computed with dropout.
      frozen_encoder_layers: how many of the lowest layers are frozen while others are not.
    """

    index: int
    start: int
    stop: int
    cohorts: dict[str, int]
    frozen: frozenset[str]
    encoder_dropout: bool = True
    frozen_encoder_layers: int = 0

    def untrained_layers(self, depth: int) -> int:
        """How many layers of an encoder of that depth have no trained parameter."""
        trains = any(_in_stack(slices.path_of(name)) for name in self.cohorts)
        return self.frozen_encoder_layers if trains else depth

    def frozen_part(self, path: str) -> str:
        """For a person: the phase's index if it freezes the leaf, and which layers if not all."""
        frozen, trained = (set(map(slices.path_of, part)) for part in (self.frozen, self.cohorts))
        rows = f" [0:{self.frozen_encoder_layers}]" if path in trained else ""
        return f"{self.index}{rows}" if path in frozen else ""


def spans(phases: Sequence[Phase], leaves: Mapping[str, Any]) -> list[Span]:
    """Places phases one after the other and sorts the parameters, {path: array or shape}, of each.

    Raises:
      UserError: no phases, an expression that matches nothing, a phase that trains nothing, one
        that is to compute an encoder as at inference and trains some of it, or one that freezes
        layers that the encoder does not have, that `freeze` names, or above what trains.
    """
    if not phases:
        raise UserError("Stage.phases", list(phases), "a stage needs at least one phase")
    result: list[Span] = []
    start = 0
    names = _names(phases, leaves)
    since: dict[str, int] = {}
    for index, phase in enumerate(phases):
        chosen = tree.select(phase.freeze, leaves, field="Phase.freeze")
        if phase.train:
            chosen = frozenset(leaves) - tree.select(phase.train, leaves, field="Phase.train")
        if len(chosen) == len(leaves):
            raise UserError("Phase.freeze", list(phase.freeze), "leaves nothing to train")
        layers = phase.frozen_encoder_layers
        if layers:
            _check_layers(layers, chosen, leaves)
        frozen = frozenset(name for name in names if _is_frozen(name, chosen, layers))
        since = {name: since.get(name, index) for name in names if name not in frozen}
        if not phase.frozen_dropout:
            _check_encoder_frozen(since)
        stop = start + phase.steps
        result.append(Span(index, start, stop, since, frozen, phase.frozen_dropout, layers))
        start = stop
    return result


def _names(phases: Sequence[Phase], leaves: Mapping[str, Any]) -> list[str]:
    """All parameters; the encoder's layers in slices, if any phase freezes some of them alone."""
    cuts = {0, *(phase.frozen_encoder_layers for phase in phases)}
    names: list[str] = []
    for path, leaf in leaves.items():
        cut = len(cuts) > 1 and _in_stack(path)
        names += slices.names(path, sorted({*cuts, leaf.shape[0]})) if cut else [path]
    return names


def _in_stack(path: str) -> bool:
    return path.startswith(f"{LAYERS}/")


def _is_frozen(name: str, chosen: frozenset[str], layers: int) -> bool:
    path, rows = slices.parse(name)
    return path in chosen or (rows is not None and rows.stop <= layers)


def _check_layers(count: int, chosen: frozenset[str], leaves: Mapping[str, Any]) -> None:
    stack = sorted(filter(_in_stack, leaves))
    depth = leaves[stack[0]].shape[0]
    twice = [path for path in stack if path in chosen]
    trained = [path for path in leaves if path not in chosen]
    exposed = [part for part in BELOW if any(path.startswith(f"{part}/") for path in trained)]
    if count >= depth:
        remedy = f"the encoder has {depth} layers; to freeze all, use Phase.freeze"
    elif twice:
        remedy = f"Phase.freeze names layers of the encoder too ({twice[0]}); keep one of the two"
    elif exposed:
        remedy = f"what lies below a frozen layer is frozen too: add {exposed} to Phase.freeze"
    else:
        return
    raise UserError("Phase.frozen_encoder_layers", count, remedy)


def _check_encoder_frozen(trainable: Iterable[str]) -> None:
    if trained := sorted(path for path in trainable if path.split("/")[0] in ENCODER):
        raise UserError(
            "Phase.frozen_dropout",
            False,
            f"needs the whole encoder frozen, yet {len(trained)} of its parameters train "
            f"({trained[0]}); add {list(ENCODER)} to Phase.freeze, or leave dropout on",
        )


def span_of(placed: Sequence[Span], step: int) -> Span:
    """The phase that performs the update from `step` to `step + 1`; the last one at the end."""
    return next((span for span in placed if step < span.stop), placed[-1])
