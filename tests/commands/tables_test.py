"""The command that gathers runs into tables: what it prints, what it writes, what can be wrong."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from seqrecipes import tables
from tests.commands.harness import ROOT
from tests.downstream.harness import write_scores


@pytest.fixture
def runs(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two models, UDPOS with three seeds each and XNLI of one model with one."""
    folder = tmp_path / "runs"
    for model, shift in (("roberta_12e", 0.0), ("random_weights", -20.0)):
        for seed in range(3):
            scores = {
                "en": {"f1": 90.0 + shift, "accuracy": 1.0},
                "de": {"f1": 70.0 + shift + seed, "accuracy": 2.0},
                "ja": {"f1": 40.0 + shift + seed, "accuracy": 3.0},
            }
            write_scores(folder, scores, model=model, seed=seed)
    scores = {"en": {"accuracy": 80.0}, "fr": {"accuracy": 60.0}}
    write_scores(folder, scores, task="xnli", model="roberta_12e")
    return folder


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = tables.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def row(text: str, model: str) -> list[str]:
    """The cells of the first row of a model."""
    line = next(line for line in text.split("\n") if line.startswith(f"| {model} "))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_models_against_tasks(capsys, runs):
    status, text, _ = run(capsys, runs)
    assert status == 0
    # 55, 56 and 57 over de and ja.
    assert row(text, "roberta_12e") == ["80.0", "60.0", "90.0 ±0.0", "56.0 ±1.0"]
    assert row(text, "random_weights") == ["-", "-", "70.0 ±0.0", "36.0 ±1.0"]
    assert "(paper)" not in text and "by language" not in text


def test_the_papers_numbers_and_all_languages_on_request(capsys, runs):
    status, text, _ = run(capsys, runs, "--paper", "--per_language=udpos", "--per_language=xnli")
    assert status == 0
    assert row(text, "roberta-12e (paper)") == [
        "84.5 ±0.5",
        "75.8 ±0.2",
        "95.8 ±0.0",
        "73.5 ±0.2",
    ]
    _, udpos, xnli = text.split("by language\n")
    assert row(udpos, "roberta_12e") == ["90.0 ±0.0", "71.0 ±1.0", "41.0 ±1.0", "56.0 ±1.0"]
    assert row(udpos, "roberta-12e (paper)")[1:3] == ["86.2 ±0.2", "44.9 ±1.3"]
    assert row(xnli, "roberta_12e") == ["80.0", "60.0", "60.0"]


def test_files_for_papers_and_programs(capsys, runs, tmp_path):
    output = tmp_path / "new" / "folder"
    status, text, _ = run(capsys, runs, "--per_language=udpos", f"--output={output}")
    assert status == 0
    assert text.endswith(f"in {output}: tables.md, tables.tex, tables.json, scores.png\n")
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["tables.md", "tables.tex", "tables.json", "scores.png"]
    )
    written = (output / "tables.md").read_text("utf-8")
    assert row(written, "roberta_12e") == ["80.0", "60.0", "**90.0 ±0.0**", "**56.0 ±1.0**"]
    assert (output / "tables.tex").read_text("utf-8").count(r"\begin{tabular}") == 2
    found = json.loads((output / "tables.json").read_text("utf-8"))
    assert [table["title"] for table in found] == ["Encoder tasks", "UDPOS (f1) by language"]
    assert found[0]["rows"][0]["cells"][3] == {"mean": 36.0, "std": 1.0, "seeds": 3}
    assert (output / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_a_point_for_every_figure(monkeypatch, runs, tmp_path):
    """What matplotlib was given: mean, line and deviation of every model, task and average."""
    from matplotlib import axes

    from seqrecipes.downstream import pictures, results

    points = []

    def errorbar(axis, x, y, *, xerr, **_):
        points.append((axis.get_title(), x, round(y), xerr))

    monkeypatch.setattr(axes.Axes, "errorbar", errorbar)
    titles = []
    monkeypatch.setattr(axes.Axes, "set_title", lambda axis, title, **_: titles.append(title))
    found = results.read(results.find([runs / "roberta_12e", runs / "random_weights"]))
    pictures.draw(found, tmp_path / "scores.png")
    assert titles == ["XNLI (acc.)", "UDPOS (f1)"]
    assert sorted((x, y, xerr) for _, x, y, xerr in points if xerr is not None) == [
        (36.0, 1, 1.0),
        (56.0, 0, 1.0),
        (70.0, 1, 0.0),
        (90.0, 0, 0.0),
    ]
    assert sorted((x, y) for _, x, y, xerr in points if xerr is None) == [(60.0, 0), (80.0, 0)]


def test_a_narrow_picture_holds_its_legend(monkeypatch, runs, tmp_path):
    from matplotlib import figure

    from seqrecipes.downstream import pictures, results

    drawn = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    found = results.read(results.find([runs / "roberta_12e"]))
    pictures.draw([each for each in found if each.task == "xnli"], tmp_path / "scores.png")
    (picture,) = drawn
    picture.canvas.draw()
    box, (legend,) = picture.bbox, picture.legends
    extent = legend.get_window_extent()
    assert box.x0 <= extent.x0 and extent.x1 <= box.x1, "cut at a side"


def test_what_can_be_wrong_is_one_line(capsys, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    broken = write_scores(tmp_path / "broken", {"en": {"f1": 1.0}}) / "scores.json"
    broken.write_text("{", "utf-8")
    for arguments, words in (
        ([tmp_path / "missing"], "missing"),
        ([runs, tmp_path / "empty"], "empty"),
        ([tmp_path / "broken"], str(broken)),
        ([runs, "--per_language=panx"], "'panx'"),
        ([runs, "--output", broken], str(broken)),
    ):
        status, text, error = run(capsys, *arguments)
        assert (status, text) == (2, "")
        assert error.startswith("error: ") and error.count("\n") == 1 and words in error


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom seqrecipes.tables import main\n"
        "try: main(['--help'])\nexcept SystemExit as error: assert error.code == 0\n"
        "heavy = {'jax', 'tensorflow', 'numpy', 'matplotlib', 'seqeval', 'sacrebleu'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--per_language TASK" in done.stdout
