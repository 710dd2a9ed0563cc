"""The order of dispatch and fetch in the loop, and its seconds, with devices that are imagined."""

from __future__ import annotations

import json
import types

import jax
import numpy as np
import pytest

from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing
from seqrecipes.training import checkpoints, loop, progress, reporting
from tests.training import loop_test

COMPILING, UPDATE, WRITING = 10.0, 1.0, 0.25  # seconds


class Device:
    """Does one update after the other, each in a second, while the host goes on.

    Attributes:
      events: what the host did, in order.
      now: the host's clock.
      idle: seconds for which the device had nothing to do between its first update and its last.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.now = self.idle = 0.0
        self._done = [0.0]
        self._programs = 0

    def compile_step(self, *_):
        compiled = False

        def update(state, batch):
            nonlocal compiled
            if not compiled:
                self.now += COMPILING
                compiled = True
                self._programs += 1
            step, begin = len(self._done), max(self.now, self._done[-1])
            self.idle += begin - self._done[-1] - (COMPILING if step == 1 else 0)
            self._done.append(begin + UPDATE)
            self.events.append(("dispatch", step))
            rest = {"accuracy": 0.5, "gradient_norm": 1.0, "tokens": 128.0}
            return state, {"loss": Metric(self, step), **rest}

        return update

    def wait(self, step: int) -> None:
        self.now = max(self.now, self._done[step])
        self.events.append(("fetch", step))

    def write_scalars(self, step, scalars):
        self.now += WRITING
        if "train/loss" in scalars:
            self.events.append(("report", step))

    def flush(self):
        pass


class Metric:
    """A number on the device; reading it waits."""

    def __init__(self, device: Device, step: int, value: float = 1.0):
        self._device, self._step, self._value = device, step, value

    def __array__(self, dtype=None, copy=None):
        self._device.wait(self._step)
        return np.asarray(self._value, dtype)


@pytest.fixture
def device(monkeypatch) -> Device:
    device = Device()
    monkeypatch.setattr(loop.Training, "compile_step", device.compile_step)
    monkeypatch.setattr(loop.Training, "enter", lambda training, state, *_: state)
    monkeypatch.setattr(loop, "evaluator", lambda *_: lambda params: {"loss": 1.0})
    monkeypatch.setattr(
        checkpoints.Checkpoints,
        "save",
        lambda self, step, *_: device.events.append(("save", step)),
    )
    clock = types.SimpleNamespace(monotonic=lambda: device.now)
    monkeypatch.setattr(reporting, "time", clock)
    return device


def run(device: Device, folder, **changes) -> dict:
    """Trains with the imagined device; the ledger that remains."""
    job = loop_test.training(**{"validate_every": 100} | changes)
    folder.mkdir()
    loop.train(
        job,
        folder,
        mesh=job.partitioning.mesh(),
        initial_params=dict,
        batches=loop_test.RandomBatches(),
        metadata={},
        writers=lambda start: [device, reporting.JsonLines(folder / "metrics.jsonl", start)],
    )
    return json.loads((folder / "ledger.json").read_text("utf-8"))


def test_metrics_are_fetched_after_the_next_update_was_dispatched(device, tmp_path):
    run(device, tmp_path / "stage", checkpointing=Checkpointing(every=5))
    assert device.events == [
        *(("dispatch", 1), ("dispatch", 2), ("dispatch", 3)),
        *(("fetch", 1), ("fetch", 2), ("report", 2)),
        ("dispatch", 4),
        # The phase ends here and the host will compile.
        *(("fetch", 3), ("fetch", 4), ("report", 4)),
        ("dispatch", 5),
        # A checkpoint is never ahead of its report.
        *(("fetch", 5), ("report", 5), ("save", 5)),
        *(("dispatch", 6), ("dispatch", 7)),
        *(("fetch", 6), ("report", 6)),
        ("dispatch", 8),
        *(("fetch", 7), ("fetch", 8), ("report", 8), ("save", 8)),
    ]


def test_the_device_works_while_the_host_writes_and_no_second_is_counted_twice(device, tmp_path):
    never = Checkpointing(every=100)
    ledger = run(device, tmp_path / "stage", phases=[Phase(9)], checkpointing=never)
    assert device.idle == 0
    rows = reporting.read_metrics(tmp_path / "stage" / "metrics.jsonl")
    reports = [row for row in rows if "train/loss" in row]
    assert [row["step"] for row in reports] == [2, 4, 6, 8, 9]
    # The last report follows that of step 8 at once; no update is left to hide the writing behind.
    assert [row["speed/seconds_per_step"] for row in reports] == [UPDATE] * 5
    assert reports[0]["speed/tokens_per_second"] == 128 / UPDATE
    seconds = ledger["total"]["seconds"]
    assert seconds["compilation"] == COMPILING
    assert seconds["training"] == 9 * UPDATE
    assert seconds["validation"] == 2 * WRITING, "of the last report, and of the validation itself"
    assert (ledger["total"]["steps"], ledger["total"]["tokens"]) == (9, 9 * 128)


def test_a_late_report_still_stops_the_run_before_a_checkpoint(device, tmp_path, monkeypatch):
    init = Metric.__init__

    def poisoned(self, device, step):
        init(self, device, step, np.nan if step == 4 else 1.0)

    monkeypatch.setattr(Metric, "__init__", poisoned)
    every = Checkpointing(every=5)
    with pytest.raises(FloatingPointError, match="at step 4 the loss is nan"):
        run(device, tmp_path / "stage", phases=[Phase(8)], checkpointing=every)
    assert not [event for event in device.events if event[0] == "save"]
    assert ("dispatch", 5) in device.events


def test_nothing_is_moved_that_was_not_asked_for(tmp_path):
    """Neither by the loop nor by validation and checkpoints; on CPUs only copies to the device are
    transfers.
    """
    job = loop_test.training(phases=[Phase(4)], validate_every=2)
    mesh = job.partitioning.mesh()
    params = job.random_params(mesh)
    with jax.transfer_guard("disallow"):
        loop_test.run(job, tmp_path / "stage", lambda: params)
    assert checkpoints.latest_step(tmp_path / "stage") == 4


class Silent:
    """A reporter, or a ledger, that is told things and does nothing."""

    def __getattr__(self, name):
        return lambda *_: 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("allowed", [0, 2])
def test_more_sick_updates_in_a_row_than_are_allowed_stop_the_run(name, value, allowed):
    sound = {"loss": 1.0, "gradient_norm": 1.0}
    for row, several in ((sound | {name: value}, allowed), (sound, 9)):
        book = progress.Progress(Silent(), Silent(), 3, allowed)
        for _ in range(2):
            for _ in range(several):
                book.dispatched(row)
            book.dispatched(sound)
        book.report()
    book = progress.Progress(Silent(), Silent(), 3, allowed)
    for _ in range(allowed):
        book.dispatched(sound | {name: value})
    book.report()  # what is in a row may be reported in two parts
    book.dispatched(sound | {name: value})
    with pytest.raises(progress.NotFinite, match=f"at step {3 + allowed + 1} "):
        book.report()
