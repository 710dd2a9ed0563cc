"""What a command says of training that ended, or did not. Signals themselves: `tests/commands`."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from seqrecipes.training.interruption import Interrupted, exit_status


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (None, 0, ""),
        (FloatingPointError("the loss is nan at step 3"), 1, "error: the loss is nan at step 3\n"),
        (
            Interrupted(signal.SIGTERM, 7),
            128 + 15,
            "stopped by SIGTERM at step 7: saved; the same command goes on from there\n",
        ),
    ],
    ids=str,
)
def test_training_ends_with_a_status(
    capsys: Any, error: Exception | None, status: int, words: str
) -> None:
    def train() -> None:
        if error is not None:
            raise error

    assert exit_status(train) == status
    assert capsys.readouterr() == ("", words)


def test_other_errors_keep_their_traceback() -> None:
    def train() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        exit_status(train)
