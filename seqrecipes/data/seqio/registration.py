"""Everything that was declared, for seqio."""

from __future__ import annotations

from seqrecipes.data import registry
from seqrecipes.data.seqio import labelled, tasks


def register() -> None:
    """Puts all that task modules declared into seqio's registries, but for what they have.

    Needed where a command of ours imported the modules first, in the same process.
    """
    tasks.register(registry.TASKS.values())
    labelled.register(registry.SETS.values())
