"""SIGTERM and Ctrl-C: finish the step, save, leave; and what a command then says of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """Training was stopped by a signal, after a checkpoint was saved.

    Args:
      signum: the signal.
      step: step of the checkpoint.
    """

    def __init__(self, signum: int, step: int):
        self.signum, self.step = signum, step
        super().__init__(f"{signal.Signals(signum).name} at step {step}")


class Watch:
    """Remembers a first signal; a second one acts as it would have without us.

    With several processes all must stop at the same step: jax's coordination service agrees on it
    when any of them receives SIGTERM, and Ctrl-C is passed on to it as one.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._received: int | None = None
        self._distributed = jax.process_count() > 1

    def __enter__(self) -> Watch:
        watched = (signal.SIGINT,) if self._distributed else self.SIGNALS
        self._old = {int(number): signal.signal(number, self._receive) for number in watched}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, self._old[signum])
        self._received = signum
        if self._distributed:
            signal.raise_signal(signal.SIGTERM)

    def check(self, step: int) -> int | None:
        """The signal after which to stop at this step, the same answer in every process."""
        if self._distributed:
            if multihost_utils.reached_preemption_sync_point(step):
                return self._received or signal.SIGTERM
            return None
        return self._received


def exit_status(train: Callable[[], object]) -> int:
    """Trains: 0, 1 if the loss is no longer finite, 128 + the signal if one stopped it."""
    try:
        train()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"stopped by {stop}: saved; the same command goes on from there", file=sys.stderr)
        return 128 + stop.signum
    return 0
