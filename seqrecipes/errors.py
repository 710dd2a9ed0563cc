"""The one exception for what a user can mend.

Commands print it as a single line and exit with status 2; everything else keeps its traceback.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Callable, Iterator


class UserError(ValueError):
    """A configuration, file or checkpoint that cannot be used as given.

    Args:
      field: what was set, as the user wrote it (`Stage.batch_size`, `--gin_file`, ...).
      value: the offending value.
      remedy: what is wrong with it and what would be accepted.
    """

    def __init__(self, field: str, value: object, remedy: str):
        self.field, self.value, self.remedy = field, value, remedy
        super().__init__(f"{field} = {value!r}: {remedy}")


def one_line(error: UserError) -> str:
    """The error for a terminal; of what gin appends to it, only the scope is of use."""
    first, *rest = str(error).split("\n")
    scopes = re.findall(r"in scope '([^']+)'", " ".join(rest))
    return f"error: {first}" + (f" (scope {scopes[0]})" if scopes else "")


def exit_status(command: Callable[[], int | None], *, interrupted: str = "interrupted") -> int:
    """Runs a command: its own status, 2 after telling what the user can mend, 130 after Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(interrupted, file=sys.stderr)
        return 128 + (error.args[0] if error.args else signal.SIGINT)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP interrupt as Ctrl-C does, so that what must be undone is."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt(signum)

    watched = (signal.SIGTERM, signal.SIGHUP)
    old = {n: signal.signal(n, interrupt) for n in watched if signal.getsignal(n) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
