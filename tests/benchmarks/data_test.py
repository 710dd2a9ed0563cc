"""The data benchmark: its clockwork, its verdicts, and the command from end to end."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import data, results
from benchmarks.suite import Results
from benchmarks.timing import Case, Measurement, Missing, measure

ROOT = Path(__file__).resolve().parents[2]


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cases_run_in_turns_and_are_counted_by_processor_time() -> None:
    order = []

    def case(name: str, seconds: float, asleep: float) -> Case:
        def run(batches: int) -> int:
            order.append(name)
            spin(batches * seconds)
            time.sleep(asleep)
            return batches * 1000

        return Case("group", name, run)

    slow, fast = measure([case("slow", 0.004, 0.0), case("fast", 0.002, 0.05)], 3, 0.02)
    assert order[-6:] == ["slow", "fast"] * 3
    assert slow.rate == pytest.approx(1000 / 0.004, rel=0.1)
    assert fast.rate == pytest.approx(1000 / 0.002, rel=0.1)
    assert max(fast.busy) < 0.5


def test_work_left_to_a_thread_is_counted_for_the_case_that_left_it() -> None:
    def run(batches: int) -> int:
        threading.Thread(target=spin, args=(batches * 0.02,)).start()
        return batches * 1000

    def idle(batches: int) -> int:
        spin(batches * 0.001)
        return batches * 1000

    ahead, beside = measure([Case("g", "a", run), Case("g", "b", idle)], 3, 0.04)
    assert ahead.rate == pytest.approx(1000 / 0.02, rel=0.15)
    assert beside.rate == pytest.approx(1000 / 0.001, rel=0.15)


def outcome(ours: float, peer: float | None, aside: float | None = None) -> Results:
    def measurement(name: str, rate: float, role) -> Measurement:
        return Measurement(Case("mlm", name, lambda batches: 0, role), 1, [rate], [1.0])

    measurements = [measurement("ours", ours, "ours")]
    if peer is not None:
        measurements += [measurement("peer", peer, "peer"), measurement("other", 1e6, "peer")]
    if aside is not None:
        measurements.append(measurement("aside", aside, "aside"))
    missing = [Missing("mlm", "absent", "not installed: pip install absent")]
    return Results(measurements, missing, {}, {}, {}, "text")


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (outcome(3e6, 2e6), "is 1.50x: met"),
        (outcome(3e6, 2.1e6), "is 1.43x: NOT met"),
        (outcome(3e6, 2e6, aside=9e6), "is 1.50x: met"),
        (outcome(3e6, None), "no peer was measured"),
    ],
)
def test_goals_are_judged_against_the_fastest_peer(measured: Results, verdict: str) -> None:
    about = {"processor": "p", "pinned_core": 0, "python": "3", "versions": {}}
    report = results.report(measured, about)
    assert verdict in report
    assert "not installed: pip install absent" in report


def test_settings_that_cannot_be_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["--seconds=0"]) == 2
    assert "--seconds = 0.0" in capsys.readouterr().err


def test_command_measures_ours_and_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    flags = ["--seconds=0.02", "--repetitions=1", "--characters=40000", "--batch_size=4"]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", *flags, "--objectives=mlm", f"--json={path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert "from a folder on disk to the first batch" in finished.stdout

    figures = json.loads(path.read_text("utf-8"))
    measured = {(m["group"], m["name"]): m for m in figures["measurements"]}
    assert ("mlm", "this package") in measured
    assert ("raw text", "SentencePiece encode(list)") in measured
    assert all(m["tokens_per_second"] > 0 for m in figures["measurements"])
    assert set(figures["seek_seconds"]) == {"0", "1000000", "1000000000000"}
    # Input, positions, targets, and how many tokens the text has.
    assert figures["memory"]["mlm"]["batch"] == 4 * 4 * (512 + 77 + 77 + 1)
    installed = importlib.util.find_spec("transformers") is not None
    name = "Hugging Face, bare lists to NumPy"
    assert (("mlm", name) in measured) == installed
    absent = [m["reason"] for m in figures["missing"] if m["name"] == name]
    assert absent == ([] if installed else ["not installed: pip install transformers"])
