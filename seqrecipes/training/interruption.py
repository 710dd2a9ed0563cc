"""SIGTERM, SIGHUP and Ctrl-C: finish the update, save, leave; and what a command says of it."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)


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
    when any of them receives SIGTERM, and the others are passed on to it as one.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    # Of all stages of a process together: the service agrees on a number that is still to come.
    _checks = 0

    def __init__(self) -> None:
        self._received: int | None = None
        self._distributed = jax.process_count() > 1

    def __enter__(self) -> Watch:
        # What the caller ignores (`nohup`, a job in the background) stays ignored.
        watched = [
            number
            for number in self.SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN
            and not (self._distributed and number == signal.SIGTERM)
        ]
        self._old = {int(number): signal.signal(number, self._receive) for number in watched}
        self._said = contextlib.ExitStack()
        self._said.enter_context(_said_at_once(self._old))
        return self

    def __exit__(self, *_: object) -> None:
        self._said.close()
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, self._old[signum])
        self._received = signum
        if self._distributed:
            signal.raise_signal(signal.SIGTERM)

    def check(self) -> int | None:
        """The signal after which to stop now, the same answer in every process.

        Every process calls it equally often.
        """
        if self._distributed:
            Watch._checks += 1
            if multihost_utils.reached_preemption_sync_point(Watch._checks):
                return self._received or signal.SIGTERM
            return None
        return self._received


@contextlib.contextmanager
def _said_at_once(watched: Collection[int]) -> Iterator[None]:
    """Within it, the first of these signals is acknowledged in the log as soon as it comes.

    Python calls a signal's handler when the main thread is back from what it does, a compilation of
    a minute for instance. Before that the signal's number is written to a socket, where another
    thread reads it.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        while received := ours.recv(1):
            if received[0] in watched:
                log.warning(
                    "%s: stopping after this update, and saving (a second one stops at once)",
                    signal.Signals(received[0]).name,
                )
                break

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


def exit_status(train: Callable[[], object]) -> int:
    """Trains: 0, 1 if updates are no longer finite, 128 + the signal if one stopped it."""
    try:
        train()
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as stop:
        print(f"stopped by {stop}: saved; the same command goes on from there", file=sys.stderr)
        return 128 + stop.signum
    return 0
