"""Phases of a stage: spans of steps that differ in which parameters are frozen.

Schedule and data run on across phases. What a phase unfreezes joins a cohort of its own, with
fresh moments and a fresh count: with the count of the others, Adam's bias correction would be
about 1 while the new moments are still 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from seqrecipes import tree
from seqrecipes.errors import UserError

# All that an encoder's states are computed from.
ENCODER = ("encoder", "token_embedding")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A span of steps with one set of frozen parameters.

    Attributes:
      steps: number of updates.
      freeze: regular expressions over parameter paths, e.g. ('encoder', 'token_embedding').
      frozen_dropout: dropout inside what is frozen stays on, as in our reading of Soltan et al.
        2023, section 2.1.5; False computes a wholly frozen encoder as at inference.
    """

    steps: int
    freeze: Sequence[str] = ()
    frozen_dropout: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError("Phase.steps", self.steps, "must be at least 1")
        if isinstance(self.freeze, str):
            raise UserError("Phase.freeze", self.freeze, "write a list: ['encoder']")


@dataclasses.dataclass(frozen=True)
class Span:
    """A phase placed in its stage.

    Attributes:
      index: position of the phase.
      start: first step.
      stop: step after the last.
      cohorts: {path of a trainable parameter: index of the phase since which it is trainable}.
      frozen: paths of the frozen parameters.
      encoder_dropout: whether the encoder is computed with dropout.
    """

    index: int
    start: int
    stop: int
    cohorts: dict[str, int]
    frozen: frozenset[str]
    encoder_dropout: bool = True


def spans(phases: Sequence[Phase], paths: Iterable[str]) -> list[Span]:
    """Places phases one after the other and sorts the parameters of each.

    Raises:
      UserError: no phases, an expression that matches nothing, a phase that trains nothing, or one
        that is to compute an encoder as at inference and trains some of it.
    """
    paths = list(paths)
    if not phases:
        raise UserError("Stage.phases", list(phases), "a stage needs at least one phase")
    result: list[Span] = []
    start = 0
    since: dict[str, int] = {}
    for index, phase in enumerate(phases):
        frozen = tree.select(phase.freeze, paths, field="Phase.freeze")
        if len(frozen) == len(paths):
            raise UserError("Phase.freeze", list(phase.freeze), "leaves nothing to train")
        since = {path: since.get(path, index) for path in paths if path not in frozen}
        if not phase.frozen_dropout:
            _check_encoder_frozen(since)
        result.append(Span(index, start, start + phase.steps, since, frozen, phase.frozen_dropout))
        start += phase.steps
    return result


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
