"""What a session has done: metrics of its steps, fetched late, and where its seconds went.

The host runs ahead of the devices and waits for them only to read metrics. A report is therefore
made after the next update was dispatched, so that the devices have work while the host formats and
writes. Its seconds end when its own last step is done: what is measured is the devices' time.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqrecipes.training.ledger import Ledger
from seqrecipes.training.phases import Span
from seqrecipes.training.reporting import Reporter

log = logging.getLogger(__name__)


class NotFinite(FloatingPointError):
    """An update was not finite and not made; says which, and what was found."""


class Progress:
    """Metrics on their way from the devices to the reporter, seconds on theirs to the ledger.

    Args:
      reporter: shows metrics and has the clock.
      ledger: is told what seconds went to.
      start: step at which the session begins.
      skip_nonfinite: updates in a row that may be left out because they were not finite.
    """

    def __init__(self, reporter: Reporter, ledger: Ledger, start: int, skip_nonfinite: int = 0):
        self._reporter, self._ledger = reporter, ledger
        self._skip_nonfinite, self._skipped = skip_nonfinite, 0
        self._rows: list[Mapping[str, Any]] = []
        self._step, self._flops_per_step = start, 0.0
        self._due = False

    def spent(self, kind: str) -> None:
        """The seconds since the clock was last restarted went to this, not to updates."""
        self._ledger.add(kind, self._reporter.restart_clock(self._step))

    def enter(self, span: Span, flops_per_step: float) -> None:
        """A phase begins, and the host will be compiling: nothing is gained by a late report."""
        if self._due:
            self.report()
        if self._rows:
            self.spent("training")
        self._ledger.enter(span.index)
        self._flops_per_step = flops_per_step

    def dispatched(self, metrics: Mapping[str, Any]) -> None:
        """The devices were given one more update; what was due before it is reported now."""
        if self._due:
            self.report()
        self._rows.append(metrics)
        self._step += 1

    def report_later(self) -> None:
        """A report is due, and can wait until the next update was dispatched."""
        self._due = True

    def report(self) -> None:
        """Waits for the devices and reports all steps since the last report.

        Raises:
          NotFinite: more updates in a row than may be left out were not finite.
        """
        rows, self._rows, self._due = jax.device_get(self._rows), [], False
        self._ledger.trained(self._step, self._reporter.seconds())
        # Before the checkpoint of this step, so that it is never ahead of it.
        self._ledger.write()
        sound = []
        for step, row in enumerate(rows, start=self._step - len(rows) + 1):
            if np.isfinite(row["loss"]) and np.isfinite(row["gradient_norm"]):
                self._skipped = 0
                sound.append(row)
                continue
            self._skipped += 1
            found = (
                f"at step {step} the loss is {row['loss']:g} and the norm of the gradient "
                f"{row['gradient_norm']:g}"
            )
            if self._skipped > self._skip_nonfinite:
                raise NotFinite(found)
            log.warning("%s: that update is left out", found)
        self._reporter.train(self._step, sound, len(rows), self._flops_per_step)
