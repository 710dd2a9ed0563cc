"""What was declared stands in seqio's registries, whoever imported the task modules first."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def registered_with_seqio() -> None:
    import tasks.downstream
    import tasks.pretrain  # noqa: F401
    from seqrecipes.data.seqio.registration import register

    register()
