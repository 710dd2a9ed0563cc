"""Labelled sets by name, as a task module declares them (`tasks/downstream.py`)."""

from __future__ import annotations

from collections.abc import Iterable

from seqrecipes.data import registry
from seqrecipes.data.labelled.sets import LabelledSet
from seqrecipes.errors import UserError


def register_sets(sets: Iterable[LabelledSet]) -> None:
    """Registers sets under their names."""
    sets = list(sets)
    registry.SETS.update({each.name: each for each in sets})
    if registry.wanted_by_seqio():
        from seqrecipes.data.seqio import labelled

        labelled.register(sets)


def get_set(name: str) -> LabelledSet:
    """The registered set of that name.

    Raises:
      UserError: there is none; lists those that there are.
    """
    if name not in registry.SETS:
        known = ", ".join(sorted(registry.SETS)) or "none: import tasks.downstream"
        raise UserError("set", name, f"the registered sets are {known}.")
    return registry.SETS[name]
