"""Updates that several tests of a file run, traced once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from seqrecipes.config.training import Checkpointing
from seqrecipes.training.loop import Training


@pytest.fixture(scope="module")
def shared_updates() -> Iterator[None]:
    """Stages that differ in when they report, validate and save have one update between them.

    Tracing it takes longer than a tiny run.
    """
    compile_step, known = Training.compile_step, {}

    def shared(stage: Training, span: Any, mesh: Any) -> Any:
        same = {"name": "", "checkpointing": Checkpointing(), "log_every": 1, "validate_every": 1}
        key = repr(dataclasses.replace(stage, **same)), span.index, mesh
        if key not in known:
            known[key] = compile_step(stage, span, mesh)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Training, "compile_step", shared)
        yield
