"""The report of runs with and without a ledger."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from matplotlib import pyplot as plt

from seqrecipes import report
from seqrecipes.training import ledger


def write_run(
    folder: pathlib.Path,
    name: str,
    *,
    session: tuple[int, float] | None,
    peak: float | None = None,
) -> pathlib.Path:
    """A run of one stage with two phases of 400 steps, as it stands on disk.

    Args:
      folder: the run's.
      name: the stage's.
      session: updates of the first phase that were done a second time, and its seconds in all.
      peak: of each of four devices.
    """
    stage = folder / name
    stage.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps({"stages": [{"name": name}]}), "utf-8")
    facts: dict[str, Any] = {
        "objective": "span_drop",
        "parameters": 1000,
        "tokens": 800 * 4096,
        "training_units": 7.5,
        "unigram_entropy": 7.9,
        "phases": [
            {"start": 0, "stop": 400, "flops": {"encoder": 2e14, "head": 8e14}},
            {"start": 400, "stop": 800, "flops": {"encoder": 1e15, "head": 2e15}},
        ],
    }
    (stage / "stage.json").write_text(json.dumps(facts), "utf-8")
    rows = [{"step": 800, "train/loss": 2.0}, {"step": 800, "validation/loss": 2.1}]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if session:
        repeated, seconds = session
        prices = [ledger.Price(0, 400, 4096, 1e15), ledger.Price(400, 800, 4096, 3e15)]
        for start, stop in ((0, 300), (300 - repeated, 800)):
            book = ledger.Ledger(
                stage / "ledger.json", prices, start=start, devices=4, device_kind="x", peak=peak
            )
            # All of the second phase in as many seconds as the first one.
            if stop > 400:
                book.trained(400, 0.0)
                book.enter(1)
            book.trained(stop, seconds)
            book.add("validation", 90.0)
            book.write()
    return folder


def cells(text: str) -> list[list[str]]:
    """The rows of the last table in a text, without the header."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    begin = max(i for i, row in enumerate(rows) if set(row) <= set("|- "))
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[begin + 1 :]]


def test_what_was_spent_stands_beside_what_was_reached(capsys, tmp_path):
    run = write_run(tmp_path / "run", "2stage", session=(100, 3600.0), peak=4e14)
    assert report.main([str(run)]) == 0
    shown, written = capsys.readouterr().out, (run / "report.md").read_text("utf-8")
    # 500 steps of 1 PFLOP and 400 of 3; 4 chips for an hour each, and 90 s of validation.
    expected = [
        ["2stage", "0", "500", "100", "7.5", "500", "125%", "4", "0.1", "9%"],
        ["", "1", "400", "0", "", "1.2e+03", "100%", "4", "0.1", "21%"],
    ]
    for text in (shown, written):
        assert cells(text) == expected
        assert "validation loss" in text and "Spent" in text
        spent = text[text.index("Spent") : text.index("while training")]
        assert max(map(len, spent.splitlines())) <= 120


def test_a_long_name_and_large_numbers_stay_narrow(tmp_path):
    run = write_run(
        tmp_path / "from_scratch", "2stage_bart_12e12d_unfrz", session=(7, 1e7), peak=1e12
    )
    text = report.spent(report.read([run, run]))
    assert "from_scratch/2stage_bart_12e12d_unfrz" in text
    assert max(map(len, text.splitlines())) <= 120


def test_predictions_and_what_to_expect_are_said(capsys, tmp_path):
    run = write_run(tmp_path / "run", "bart", session=None)
    sample = {"read": "the <mask> sat", "written": "the the sat", "right": "the cat sat"}
    (run / "bart" / "predictions.json").write_text(json.dumps([sample, sample]), "utf-8")
    assert report.main([str(run)]) == 0
    shown, written = capsys.readouterr().out, (run / "report.md").read_text("utf-8")
    for text in (shown, written):
        assert text.count("  read     the <mask> sat\n  written  the the sat\n  right    the") == 2
        assert "in 800 updates a model learns which tokens are frequent" in text
    stage = run / "bart" / "stage.json"
    facts = json.loads(stage.read_text("utf-8"))
    facts["phases"][-1]["stop"] = 8_000
    stage.write_text(json.dumps(facts), "utf-8")
    report.main([str(run)])
    assert "What to expect" not in capsys.readouterr().out
    (run / "bart" / "predictions.json").write_text("[3]", "utf-8")
    assert report.main([str(run)]) == 2
    assert "predictions.json" in capsys.readouterr().err


def test_curves_have_an_entropy_each_and_an_axis_of_their_own(tmp_path, monkeypatch):
    from matplotlib import axes

    entropies: list[tuple[float, str]] = []
    original = axes.Axes.axhline

    def axhline(axis, y, **options):
        entropies.append((y, options["label"]))
        return original(axis, y, **options)

    monkeypatch.setattr(axes.Axes, "axhline", axhline)
    limits: list[tuple[float, float]] = []
    monkeypatch.setattr(axes.Axes, "legend", lambda axis, **_: limits.append(axis.get_ylim()))
    runs = [write_run(tmp_path / name, "bart", session=None) for name in ("one", "two")]
    report.write(runs, tmp_path)
    assert entropies == [(7.9, "unigram entropy of the validation text")]
    stage = runs[1] / "bart" / "stage.json"
    stage.write_text(stage.read_text("utf-8").replace("7.9", "6.5"), "utf-8")
    entropies.clear()
    report.write(runs, tmp_path)
    assert entropies == [
        (7.9, "unigram entropy of one/bart"),
        (6.5, "unigram entropy of two/bart"),
    ]
    # From the losses, 2.0 and 2.1, to the entropies and little beyond.
    assert limits[-1][0] == pytest.approx(2.0 - 0.08 * 5.9)
    assert limits[-1][1] == pytest.approx(7.9 + 0.08 * 5.9)


def test_a_run_without_a_ledger(capsys, tmp_path):
    old = write_run(tmp_path / "old", "bart", session=None)
    assert report.main([str(old)]) == 0
    assert "2.100" in capsys.readouterr().out
    assert "Spent" not in (old / "report.md").read_text("utf-8")
    new = write_run(tmp_path / "new", "bart", session=(0, 36.0))
    assert report.main([str(old), str(new)]) == 0
    table = cells((old / "report.md").read_text("utf-8"))
    assert table[0] == ["old/bart", *"---", "7.5", *"-----"]
    assert table[1][:4] == ["new/bart", "0", "400", "0"]
    assert table[1][-1] == "-", "nobody knows what this device could do"


def test_probes_are_drawn_beside_the_losses(tmp_path):
    run = write_run(tmp_path / "run", "bart", session=None)
    report.write([run], run)
    before = plt.imread(run / "curves.png").shape
    rows = [
        {"step": step, "probes/udpos.f1/en": 60.0, "probes/udpos.f1/avg-0s": 30.0}
        for step in (0, 800)
    ]
    with (run / "bart" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    (record,) = report.read([run])
    assert record.probes() == {"udpos.f1": ["en", "avg-0s"]}
    report.write([run], run)
    after = plt.imread(run / "curves.png").shape
    assert after[0] == before[0] and after[1] == 2 * before[1]


@pytest.mark.parametrize("text", ["", '{"sessions": 3}'])
def test_a_broken_ledger_is_named(capsys, tmp_path, text):
    run = write_run(tmp_path / "run", "bart", session=None)
    (run / "bart" / "ledger.json").write_text(text, "utf-8")
    assert report.main([str(run)]) == 2
    assert "ledger.json" in capsys.readouterr().err
