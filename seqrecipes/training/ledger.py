"""What a stage has really cost, by phase: `<stage>/ledger.json`, written while it trains.

A run that was resumed adds up: every run of the command is a session of its own, and the totals
are sums over sessions. Updates that were trained, but lost because no checkpoint followed, were
paid for and are paid for again: they count as often as they were done, and `repeated` says how many
of the steps that is.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from seqrecipes.errors import UserError
from seqrecipes.folders import write_file
from seqrecipes.training.checkpoints import disk_errors

LEDGER_FILE = "ledger.json"

# What wall seconds go to. `compilation` is all that comes before a phase's first update: initial
# values, compiling, the first batch. `checkpoints` is waiting for them and restoring one.
KINDS = ("training", "compilation", "checkpoints", "validation", "probes")


@dataclasses.dataclass(frozen=True)
class Price:
    """What the updates of a phase cost.

    Attributes:
      start: first step of the phase.
      stop: step after its last.
      tokens: positions of the original sequences in one update.
      flops: model FLOPs of one update.
    """

    start: int
    stop: int
    tokens: int
    flops: float


@dataclasses.dataclass
class Spent:
    """What one session spent on one phase.

    Attributes:
      phase: the phase's position.
      start: step at which the session began in this phase.
      stop: step it came to.
      tokens: positions of the original sequences.
      flops: model FLOPs.
      seconds: wall seconds by kind.
    """

    phase: int
    start: int
    stop: int
    tokens: int = 0
    flops: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))


@dataclasses.dataclass
class Session:
    """One run of the command.

    Attributes:
      devices: how many it had.
      device_kind: as `jax.Device.device_kind` has it.
      peak: FLOPs a second of one device, if known.
      phases: what went to each phase that it came to.
    """

    devices: int
    device_kind: str
    peak: float | None
    phases: list[Spent] = dataclasses.field(default_factory=list)


class Ledger:
    """The ledger of a stage, open for one more session.

    Args:
      path: the file; None keeps no file, in all processes but the first.
      prices: of the stage's phases, in order.
      start: step at which the session begins.
      devices: how many devices it has.
      device_kind: their kind.
      peak: FLOPs a second of one of them, if known.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        prices: Sequence[Price],
        *,
        start: int,
        devices: int,
        device_kind: str,
        peak: float | None,
    ):
        self._path, self._prices, self._step = path, prices, start
        values = read(path) if path else None
        self._earlier = _sessions(values) if values else []
        self._session = Session(devices, device_kind, peak)
        self._unassigned = 0.0
        phase = next((i for i, price in enumerate(prices) if start < price.stop), len(prices) - 1)
        self._spent = self._of(phase)

    def enter(self, phase: int) -> None:
        """What is spent apart from training goes to this phase from now on."""
        self._spent = self._of(phase)

    def add(self, kind: str, seconds: float) -> None:
        """Adds wall seconds of a kind; those of training go to phases when `trained` says which."""
        if kind == "training":
            self._unassigned += seconds
        else:
            self._spent.seconds[kind] += seconds

    def trained(self, step: int, seconds: float) -> None:
        """The updates up to `step` are done; the last ones took so long, beside what was added.

        The devices are not waited for where one phase ends and the next begins. Seconds of updates
        on both sides are therefore shared out by FLOPs.
        """
        seconds += self._unassigned
        self._unassigned = 0.0
        parts = [
            (phase, price, max(self._step, price.start), min(step, price.stop))
            for phase, price in enumerate(self._prices)
            if self._step < price.stop and price.start < step
        ]
        flops = sum(price.flops * (stop - start) for _, price, start, stop in parts)
        for phase, price, start, stop in parts:
            spent = self._of(phase)
            cost = price.flops * (stop - start)
            spent.stop = stop
            spent.tokens += price.tokens * (stop - start)
            spent.flops += cost
            spent.seconds["training"] += seconds * cost / flops
        self._step = step

    def write(self) -> None:
        """Replaces the file in one go, so that it is whole whenever the process is killed.

        Raises:
          UserError: the disk is full.
        """
        if self._path is None:
            return
        text = json.dumps(content([*self._earlier, self._session], self._prices), indent=1)
        with disk_errors(self._path.parent):
            write_file(self._path, text + "\n")

    def _of(self, phase: int) -> Spent:
        for spent in self._session.phases:
            if spent.phase == phase:
                return spent
        begin = max(self._prices[phase].start, self._step)
        self._session.phases.append(Spent(phase, begin, begin))
        return self._session.phases[-1]


def content(sessions: Sequence[Session], prices: Sequence[Price]) -> dict[str, Any]:
    """What stands in the file: totals of every phase and of the stage, then the sessions."""
    return {
        "phases": [
            {"start": price.start, "stop": price.stop} | total(sessions, phase)
            for phase, price in enumerate(prices)
        ],
        "total": total(sessions),
        "sessions": [dataclasses.asdict(session) for session in sessions],
    }


def total(sessions: Iterable[Session], phase: int | None = None) -> dict[str, Any]:
    """What sessions spent on a phase, or on the stage, as JSON has it.

    `steps` counts an update as often as it was done, and `repeated` of these are not the first of
    their number. `chip_seconds` are wall seconds times devices. `utilisation` is FLOPs over what
    the devices could have done in the seconds of training; None where a peak is not known.
    """
    parts = [
        (session, spent)
        for session in sessions
        for spent in session.phases
        if phase in (None, spent.phase)
    ]
    steps = sum(spent.stop - spent.start for _, spent in parts)
    flops = sum(spent.flops for _, spent in parts)
    possible = sum(
        (session.peak or 0.0) * session.devices * spent.seconds["training"]
        for session, spent in parts
    )
    known = possible and all(session.peak for session, _ in parts)
    devices = [session.devices for session, _ in parts]
    seconds = {kind: [spent.seconds[kind] for _, spent in parts] for kind in KINDS}
    return {
        "steps": steps,
        "repeated": steps - _distinct((spent.start, spent.stop) for _, spent in parts),
        "tokens": sum(spent.tokens for _, spent in parts),
        "flops": flops,
        "seconds": {kind: sum(each) for kind, each in seconds.items()},
        "chip_seconds": {
            kind: sum(map(operator.mul, devices, each)) for kind, each in seconds.items()
        },
        "devices": sorted({f"{one.devices} x {one.device_kind}" for one, _ in parts}),
        "utilisation": flops / possible if known else None,
    }


def _distinct(intervals: Iterable[tuple[int, int]]) -> int:
    """How many whole numbers lie in at least one of the intervals [start, stop)."""
    count = reached = 0
    for start, stop in sorted(intervals):
        count += max(stop - max(start, reached), 0)
        reached = max(stop, reached)
    return count


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """The content of a ledger; None where there is none.

    Raises:
      UserError: the file is something else.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        total(_sessions(values))
    except (ValueError, KeyError, TypeError) as error:
        remedy = f"is no ledger ({error!r}); move the file away: the next run begins a new one"
        raise UserError("MODEL_DIR", str(path), remedy) from error
    return values


def _sessions(values: dict[str, Any]) -> list[Session]:
    return [
        Session(**one | {"phases": [Spent(**spent) for spent in one["phases"]]})
        for one in values["sessions"]
    ]
