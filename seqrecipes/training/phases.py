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


@dataclasses.dataclass(frozen=True)
class Phase:
    """A span of steps with one set of frozen parameters.

    Attributes:
      steps: number of updates.
      freeze: regular expressions over parameter paths, e.g. ('encoder', 'token_embedding').
    """

    steps: int
    freeze: Sequence[str] = ()

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
    """

    index: int
    start: int
    stop: int
    cohorts: dict[str, int]
    frozen: frozenset[str]


def spans(phases: Sequence[Phase], paths: Iterable[str]) -> list[Span]:
    """Places phases one after the other and sorts the parameters of each.

    Raises:
      UserError: no phases, an expression that matches nothing, or a phase that trains nothing.
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
        result.append(Span(index, start, start + phase.steps, since, frozen))
        start += phase.steps
    return result


def span_of(placed: Sequence[Span], step: int) -> Span:
    """The phase that performs the update from `step` to `step + 1`; the last one at the end."""
    return next((span for span in placed if step < span.stop), placed[-1])
