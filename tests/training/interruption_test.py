"""What a command says of training that ended, or did not. Signals themselves: `tests/commands`."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from typing import Any

import pytest

from seqrecipes.training import interruption
from seqrecipes.training.interruption import Interrupted, Watch, exit_status

ROUNDS = 3_000_000


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


def test_a_signal_is_acknowledged_while_the_main_thread_is_busy(monkeypatch: Any) -> None:
    """Its handler runs when a compilation ends, for instance; the line comes before."""
    said: list[float] = []
    monkeypatch.setattr(interruption.log, "warning", lambda *_: said.append(time.monotonic()))
    with Watch() as watch:
        # A second in C, without the interpreter's lock, during which nothing of Python runs here.
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", ROUNDS)
        back = time.monotonic()
        assert watch.check() == signal.SIGTERM
    assert len(said) == 1 and said[0] < back
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Watch() as watch:
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.check() is None
    finally:
        signal.signal(signal.SIGHUP, before)
