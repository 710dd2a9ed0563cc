"""The ledger against sums made by hand: under a clock of our own, interrupted, killed, cut off."""

from __future__ import annotations

import json
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import jax
import pytest

from seqrecipes.errors import UserError
from seqrecipes.training import accelerators, checkpoints, ledger, progress, reporting
from tests.training import loop_test

pytestmark = pytest.mark.usefixtures("shared_updates")

# Of the job in `loop_test`: 16 examples, 2 layers, D=16, F=24, 8 positions, 2 of them masked, 24
# ids. A layer takes 8 (8 D^2 + 4 S D + 4 D F), the head 2 x 2 D (D + 24).
ENCODER = 2 * 8 * (8 * 16**2 + 4 * 8 * 16 + 4 * 16 * 24)
HEAD = 2 * 2 * 16 * (16 + 24)
# Phase 0 leaves out the gradients of the encoder's weights alone: the table below it is trained.
FLOPS = (16 * (2 * ENCODER + 3 * HEAD), 16 * 3 * (ENCODER + HEAD))


class Clock:
    """Stands for the module `time` in the reports."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Ours: 7 s a checkpoint, written or restored; 2 s until the devices are done at a report.

    First parameters take 50 s.
    """
    clock = Clock()
    device_get = jax.device_get

    def waits(values):
        # A report asks for a list of metrics, validation for a list of sums.
        clock.now += 2 * (isinstance(values, list) and isinstance(values[0], dict))
        return device_get(values)

    monkeypatch.setattr(jax, "device_get", waits)
    monkeypatch.setattr(reporting, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    for owner, name, seconds in (
        (checkpoints.Checkpoints, "save", 7),
        (checkpoints.Checkpoints, "restore", 7),
        (loop_test.loop.Training, "random_params", 50),
    ):
        true = getattr(owner, name)

        def slow(*arguments, true=true, seconds=seconds):
            clock.now += seconds
            return true(*arguments)

        monkeypatch.setattr(owner, name, slow)
    return clock


class TimedBatches(loop_test.RandomBatches):
    """A phase's first batch, which comes with compiling, takes 100 s, others 1 s, validation 10 s.

    `asked` is called with the number of every batch before it is made.
    """

    def __init__(self, clock: Clock, asked: Callable[[int], object] = lambda step: None):
        self._clock, self._asked = clock, asked

    def train(self, start, stop):
        for step, batch in enumerate(super().train(start, stop), start):
            self._asked(step)
            self._clock.now += 100 if step == start else 1
            yield batch

    def validation(self):
        self._clock.now += 10
        return super().validation()


def content(path: pathlib.Path) -> Any:
    """What stands in the file, and that the report can read it."""
    values = json.loads(path.read_text("utf-8"))
    assert ledger.read(path) == values
    return values


def run(folder, batches, monkeypatch, **changes) -> Any:
    monkeypatch.setattr(loop_test, "RandomBatches", lambda: batches)
    loop_test.run(loop_test.training(**changes), folder)
    return content(folder / "ledger.json")


def test_the_totals_are_those_made_by_hand(tmp_path, clock, monkeypatch):
    written = run(tmp_path / "stage", TimedBatches(clock), monkeypatch, validate_every=7)
    # 4 updates a phase, the first one of each with compiling. Checkpoints at 3, 6 and 8 (the
    # last), validation at 7 and 8; reports at every second step, and before either.
    seconds = [
        {"training": 3 + 3 * 2, "compilation": 150, "checkpoints": 7, "validation": 0},
        {"training": 3 + 3 * 2, "compilation": 100, "checkpoints": 14, "validation": 20},
    ]
    for phase, expected in enumerate(seconds):
        assert written["phases"][phase] == {
            "start": 4 * phase,
            "stop": 4 * phase + 4,
            "steps": 4,
            "repeated": 0,
            "tokens": 4 * 16 * 8,
            "flops": 4 * FLOPS[phase],
            "seconds": expected | {"probes": 0},
            "chip_seconds": {kind: 8 * value for kind, value in expected.items()} | {"probes": 0},
            "devices": ["8 x cpu"],
            "utilisation": None,
        }
    assert written["total"]["steps"] == 8
    assert written["total"]["flops"] == 4 * sum(FLOPS)
    assert written["total"]["seconds"]["checkpoints"] == 21


def test_seconds_on_both_sides_of_a_phases_end_are_shared_out_by_flops(
    tmp_path, clock, monkeypatch
):
    settings = {"log_every": 8, "validate_every": 100, "checkpointing": checkpoints.Checkpointing()}
    written = run(tmp_path / "stage", TimedBatches(clock), monkeypatch, **settings)
    trained = [phase["seconds"]["training"] for phase in written["phases"]]
    # 3 s before and 3 s after, and 2 s until all was done: nobody looked at the devices in between.
    assert trained == pytest.approx([8 * each / sum(FLOPS) for each in FLOPS])
    assert [phase["seconds"]["compilation"] for phase in written["phases"]] == [150, 100]


def test_a_run_that_broke_off_and_went_on_adds_up(tmp_path, clock, monkeypatch):
    folder = tmp_path / "stage"
    on_disk = []

    def asked(step):
        if step == 5:
            on_disk.append(content(folder / "ledger.json"))
            raise ConnectionError("the text went away")

    with pytest.raises(ConnectionError):
        run(folder, TimedBatches(clock, asked), monkeypatch)
    # A kill at that moment would have left all that came before the last report.
    assert on_disk[0]["total"]["steps"] == 4
    # Step 4 was the last one looked at; the checkpoint is that of step 3.
    first = content(folder / "ledger.json")
    assert [phase["steps"] for phase in first["phases"]] == [4, 0]
    assert first["phases"][0]["seconds"] == {
        "training": 3 + 3 * 2,
        "compilation": 150,
        "checkpoints": 7,
        "validation": 10,
        "probes": 0,
    }
    written = run(folder, TimedBatches(clock), monkeypatch)
    assert [phase["steps"] for phase in written["phases"]] == [5, 4]
    assert [phase["repeated"] for phase in written["phases"]] == [1, 0]
    assert written["total"]["repeated"] == 1
    assert written["total"]["flops"] == 5 * FLOPS[0] + 4 * FLOPS[1]
    assert written["total"]["tokens"] == 9 * 16 * 8
    # Of phase 0 the second session did step 3 alone, right after restoring and compiling.
    assert written["phases"][0]["seconds"] == {
        "training": 3 + 3 * 2 + 2,
        "compilation": 250,
        "checkpoints": 14,
        "validation": 20,
        "probes": 0,
    }
    assert written["phases"][1]["seconds"]["compilation"] == 200
    # The first one compiled phase 1, but came to no report in it: its figures stay as they were.
    assert written["sessions"][0] == first["sessions"][0]
    assert [session["phases"][0]["start"] for session in written["sessions"]] == [0, 3]


def test_what_is_not_finite_was_paid_for_as_well(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(progress, "np", types.SimpleNamespace(isfinite=lambda value: False))
    with pytest.raises(FloatingPointError):
        run(tmp_path, TimedBatches(clock), monkeypatch)
    assert content(tmp_path / "ledger.json")["total"]["steps"] == 2


PRICES = [ledger.Price(0, 10, 100, 1e15), ledger.Price(10, 20, 100, 3e15)]


def open_ledger(path, start=0, **changes) -> ledger.Ledger:
    values: dict[str, Any] = {"devices": 4, "device_kind": "NVIDIA H200", "peak": 1e15}
    return ledger.Ledger(path, PRICES, start=start, **values | changes)


def test_utilisation_is_of_the_devices_that_there_were(tmp_path):
    path = tmp_path / "ledger.json"
    one = open_ledger(path)
    one.trained(6, seconds=3.0)  # 6 PFLOPs in 12 chip-seconds
    one.write()
    two = open_ledger(path, start=6, devices=8)
    two.trained(10, seconds=1.5)  # 4 PFLOPs in 12 chip-seconds
    two.add("checkpoints", 100.0)
    two.write()
    phase, untouched = content(path)["phases"]
    assert phase["utilisation"] == pytest.approx(10 / 24)
    assert phase["chip_seconds"]["training"] == 24
    assert phase["chip_seconds"]["checkpoints"] == 800
    assert phase["devices"] == ["4 x NVIDIA H200", "8 x NVIDIA H200"]
    assert (untouched["steps"], untouched["utilisation"], untouched["devices"]) == (0, None, [])
    three = open_ledger(path, start=9, device_kind="cpu", peak=None)
    three.trained(10, seconds=1.0)
    three.write()
    phase = content(path)["phases"][0]
    assert phase["utilisation"] is None, "nobody knows what the last session could have done"
    assert (phase["steps"], phase["repeated"]) == (11, 1)


def test_the_peaks_of_known_devices_are_used():
    assert accelerators.peak("NVIDIA H200") == 989e12
    assert accelerators.peak("cpu") is None


@pytest.mark.parametrize(
    ("sessions", "steps", "repeated"),
    [
        ([(0, 5), (3, 8), (8, 10)], 12, 2),
        ([(0, 5), (3, 6), (3, 4), (3, 10)], 16, 6),  # killed again before it came as far
        ([(5, 10)], 5, 0),  # begun before there was a ledger
        ([(0, 2), (7, 10)], 5, 0),
    ],
)
def test_repeated_steps_are_those_not_done_for_the_first_time(tmp_path, sessions, steps, repeated):
    for start, stop in sessions:
        book = open_ledger(tmp_path / "ledger.json", start)
        book.trained(stop, seconds=1.0)
        book.write()
    total = content(tmp_path / "ledger.json")["total"]
    assert (total["steps"], total["repeated"]) == (steps, repeated)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_while_it_is_written_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "ledger.json"
    book = open_ledger(path)
    book.trained(6, seconds=3.0)
    book.write()
    before = path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, killed)
        book.trained(8, seconds=1.0)
        with pytest.raises(KeyboardInterrupt):
            book.write()
    assert path.read_bytes() == before
    book = open_ledger(path, start=4)
    book.trained(8, seconds=1.0)
    book.write()
    assert content(path)["total"]["steps"] == 6 + 4
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.json"]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book = open_ledger(None)
    book.trained(6, seconds=3.0)
    book.write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"sessions": [{"devices": 1}]}'])
def test_another_file_under_its_name_is_refused(tmp_path, text):
    path = tmp_path / "ledger.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"ledger\.json.*is no ledger"):
        open_ledger(path)
