"""The protocol with a stand-in for `finetune`, whose scores are a function of its flags."""

from __future__ import annotations

import json
import pathlib
import stat
import sys

import gin
import pytest

from seqrecipes import protocol as command
from seqrecipes.downstream.protocol import Protocol
from seqrecipes.errors import UserError
from tests.commands.harness import ROOT

# In the place of `python -m seqrecipes.finetune`: scores that are a function of the macros.
FINETUNE = """
import ast, json, pathlib, sys
macros = dict(each.removeprefix("--gin.").split("=", 1) for each in sys.argv if "--gin." in each)
macros = {name: ast.literal_eval(text) for name, text in macros.items() if "%" not in text}
if macros["NAME"] == "broken":
    sys.exit("error: CHECKPOINT = 'none': does not exist")
seed, = macros["SEEDS"]
peak = macros.get("PEAK", 0.5)
metric = "perplexity" if any("ntrex" in each for each in sys.argv) else "f1"
folder = pathlib.Path(macros["MODEL_DIR"], str(seed))
folder.mkdir(parents=True)
(folder / "scores.json").write_text(json.dumps({
    "task": folder.parent.parent.name, "model": macros["NAME"], "seed": seed, "learning_rate": peak,
    "language": "en", "metric": metric, "best_step": 1,
    "validation": {metric: 50 - 1000 * (peak - 0.03) ** 2},
    "scores": {each: {"f1": 60.0 + seed, "bleu": 30.0} for each in ("en", "de")},
    "argv": sys.argv}))
"""


@pytest.fixture(autouse=True)
def at_root(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    stub, script = tmp_path / "python", tmp_path / "finetune.py"
    script.write_text(FINETUNE, "utf-8")
    # By a shell: a path with spaces cannot follow `#!`.
    stub.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n', "utf-8")
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(stub))
    gin.clear_config()
    yield
    gin.clear_config()


def recipe(folder: pathlib.Path, **settings: object) -> str:
    file = folder / "protocol.gin"
    values = {
        "model_dir": str(folder / "out"),
        "models": {"a": str(folder), "b": {"CHECKPOINT": str(folder), "WEIGHTS": "random"}},
        "tasks": {"udpos": [], "panx": ["b"]},
        "seeds": [0, 1],
    } | settings
    file.write_text("".join(f"protocol.{name} = {value!r}\n" for name, value in values.items()))
    return f"--gin_file={file}"


def written(folder: pathlib.Path) -> dict[str, dict]:
    out = folder / "out"
    return {
        str(file.parent.relative_to(out)): json.loads(file.read_text())
        for file in sorted(out.rglob("scores.json"))
    }


def test_every_model_runs_on_its_tasks_with_every_seed_and_tables_follow(tmp_path, capsys):
    assert command.main([recipe(tmp_path)]) == 0
    runs = written(tmp_path)
    expected = {
        f"runs/{each}/{seed}" for each in ("udpos/a", "udpos/b", "panx/b") for seed in (0, 1)
    }
    assert set(runs) == expected
    argv = runs["runs/udpos/b/1"]["argv"]
    assert "--gin.WEIGHTS='random'" in argv and f"--gin.CHECKPOINT='{tmp_path}'" in argv
    assert argv[1:4] == ["-m", "seqrecipes.finetune", "--gin_file=gin/finetune/udpos.gin"]
    assert not any("PEAK" in each for each in argv)
    text = capsys.readouterr().out
    assert "60.5" in text  # the mean of 60 and 61
    assert {file.name for file in (tmp_path / "out").glob("tables.*")} == {
        *("tables.json", "tables.md", "tables.tex")
    }


def test_each_tasks_learning_rate_is_the_best_of_single_trials(tmp_path):
    flags = {"learning_rates": [0.01, 0.03, 0.1], "tasks": {"udpos": ["b"], "ntrex": ["a"]}}
    assert command.main([recipe(tmp_path, **flags)]) == 0
    runs = written(tmp_path)
    trials = {name: run for name, run in runs.items() if name.startswith("rates/")}
    assert len(trials) == 6
    assert all(run["seed"] == 0 for run in trials.values())
    assert (
        runs["runs/udpos/b/0"]["learning_rate"] == runs["runs/udpos/b/1"]["learning_rate"] == 0.03
    )
    # Of perplexity the smallest.
    assert runs["runs/ntrex/a/1"]["learning_rate"] == 0.1


def test_the_same_command_does_what_is_left_and_a_failure_stops_nothing(tmp_path, capsys):
    models = {"broken": str(tmp_path), "a": str(tmp_path)}
    given = recipe(tmp_path, models=models, tasks={"udpos": []}, seeds=[0])
    assert command.main([given]) == 1
    assert set(written(tmp_path)) == {"runs/udpos/a/0"}
    assert "error: CHECKPOINT = 'none': does not exist" in capsys.readouterr().err
    file = tmp_path / "out/runs/udpos/a/0/scores.json"
    before = file.stat().st_mtime_ns
    gin.clear_config()
    assert command.main([given]) == 1
    assert file.stat().st_mtime_ns == before
    assert "1 of 2 are done" in capsys.readouterr().err


def test_a_model_with_which_nothing_is_left_to_do_may_be_gone(tmp_path, capsys):
    models = {name: str(tmp_path / name) for name in ("a", "b")}
    for folder in models.values():
        pathlib.Path(folder).mkdir()
    given = recipe(tmp_path, models=models, tasks={"udpos": ["a"]})
    assert command.main([given]) == 0
    pathlib.Path(models["a"]).rmdir()
    gin.clear_config()
    assert command.main([given]) == 0
    given = recipe(tmp_path, models=models, tasks={"udpos": []})
    gin.clear_config()
    assert command.main([given]) == 0
    pathlib.Path(models["b"]).rmdir()
    given = recipe(tmp_path, models=models, tasks={"udpos": [], "panx": ["b"]})
    gin.clear_config()
    assert command.main([given]) == 2
    assert "protocol.models = 'b': there is no" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": {"poetry": []}}, "no gin/finetune/poetry.gin; there are"),
        ({"tasks": {"udpos": ["c"]}}, "models are a, b"),
        ({"seeds": []}, "names nothing"),
        ({"learning_rates": [0.0]}, "must be above 0"),
        ({"models": {"a": "runs/none", "b": "runs/none"}}, "protocol.models = 'a': there is no"),
        ({"models": {"a": {}, "b": {}}}, "protocol.models = 'a': there is no CHECKPOINT"),
        ({"gin_files": ["gin/none.gin"]}, "protocol.gin_files = 'gin/none.gin': no such file"),
        ({"model_dir": "setup.py/x"}, "cannot be written"),
        ({"macros": {"LABELLED_FILES": "nowhere"}}, "LABELLED_FILES = 'nowhere': no such folder"),
    ],
)
def test_errors_before_anything_runs(tmp_path, capsys, settings, words, flags):
    assert command.main([recipe(tmp_path, **settings), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_would_be_run(tmp_path, capsys):
    assert command.main([recipe(tmp_path, learning_rates=[0.1, 0.2]), "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "udpos: a, b, 2 seeds, after trials of a with 0.1, 0.2" in text
    assert not (tmp_path / "out").exists()


def test_a_missing_trial_is_named(tmp_path):
    protocol = Protocol(str(tmp_path), {"a": "x"}, {"udpos": []}, learning_rates=(0.1,))
    with pytest.raises(UserError, match=r"rates/udpos/0.1/0/scores.json is missing"):
        protocol.rate("udpos")
