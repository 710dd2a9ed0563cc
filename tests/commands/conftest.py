"""Commands run as where neither seqio nor TensorFlow is installed."""

from __future__ import annotations

import sys

import pytest

from tests.commands.harness import WITHOUT


@pytest.fixture(autouse=True, scope="module")
def no_tensorflow():
    with pytest.MonkeyPatch.context() as patched:
        for name in WITHOUT:
            patched.setitem(sys.modules, name, None)
        yield
