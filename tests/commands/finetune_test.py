"""The commands `finetune` and `evaluate`, on files that a test writes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
from typing import Any

import gin
import pytest

from seqrecipes import configuration, evaluate, finetune
from seqrecipes.config.finetuning import Finetuning
from seqrecipes.data.registry import import_tasks
from seqrecipes.downstream.protocol import Protocol
from seqrecipes.errors import UserError
from seqrecipes.training import checkpoints
from tests.commands.harness import ROOT
from tests.downstream import tiny_runs

# Soltan et al. 2023, Table 10: peak, warm-up, its steps, floor, batch, epochs, metric, updates.
TABLE_10: dict[str, tuple[Any, ...]] = {
    "xnli": (1e-5, "linear", 1_000, 0.0, 128, 5, "accuracy", 30_000),
    "matis": (3e-5, "linear", 500, 0.0, 128, 200, "slot_f1", 7_000),
    "panx": (3e-5, "linear", 300, 0.0, 128, 20, "f1", 3_000),
    "udpos": (3e-5, "linear", 1_000, 0.0, 128, 56, "f1", 9_000),
    "mtop": (5e-6, "exponential", 1_000, 1e-7, 32, 200, "sciem", 50_000),
    "xsum": (5e-6, "exponential", 1_000, 1e-7, 32, 200, "perplexity", 50_000),
}


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: bytes) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("finetune")
    tiny_runs.checkpoint(folder / "encoder", vocabulary)
    tiny_runs.checkpoint(folder / "seq2seq", vocabulary, decoder_layers=1)
    tiny_runs.write_udpos(folder / "data")
    tiny_runs.write_scitldr(folder / "data")
    tiny_runs.write_ntrex(folder / "data")
    return folder


def arguments(folder: pathlib.Path, run: str, **macros: object) -> list[str]:
    """Paths are relative, as the documentation and the defaults have them."""
    there = os.path.relpath(folder, ROOT)
    values = {
        "MODEL_DIR": f"'{there}/{run}'",
        "CHECKPOINT": f"'{there}/encoder'",
        "LABELLED_FILES": f"'{there}/data'",
        "LANGUAGES": "['en', 'de']",
        "INPUT_LENGTH": 24,
        "MAX_UPDATES": 4,
        "WARMUP_STEPS": 1,
    }
    return [
        "--gin_file=gin/finetune/udpos.gin",
        "--gin_file=gin/finetune/demo.gin",
        *(f"--gin.{name}={value}" for name, value in (values | macros).items()),
    ]


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> str:
    """Fine-tunes two seeds into the folder `run`; what the command prints."""
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()) as printed:
        assert finetune.main(arguments(folder, "run", SEEDS=[0, 1])) == 0
    gin.clear_config()
    return printed.getvalue()


def test_the_commands_fine_tune_and_evaluate(folder: pathlib.Path, run: str, capsys: Any) -> None:
    text = run
    assert "encoder on udpos, 2 seeds: mean ± std" in text
    assert re.search(r"\n  en +f1 \d+\.\d ± \d+\.\d  accuracy", text)
    assert re.search(r"\n  avg-0s +f1 \d+\.\d ± \d+\.\d  accuracy", text)
    scores = json.loads((folder / "run" / "1" / "scores.json").read_text())["scores"]

    # Where the data lies is known from the run's folder.
    there = os.path.relpath(folder, ROOT)
    seed, output = f"{there}/run/1", f"{there}/output"
    assert evaluate.main([f"--checkpoint={seed}", "--languages=de", f"--output={output}"]) == 0
    text = capsys.readouterr().out
    assert text == f"de  f1 {scores['de']['f1']:.2f}  accuracy {scores['de']['accuracy']:.2f}\n"
    again = json.loads(pathlib.Path(output, "evaluation.json").read_text())
    assert again["scores"] == {"de": scores["de"]}
    assert len(pathlib.Path(output, "de.jsonl").read_text().splitlines()) == 5


def test_what_lies_beside_a_checkpoint_is_data(
    folder: pathlib.Path, run: str, tmp_path: pathlib.Path, capsys: Any
) -> None:
    """`@calls` are not made, whatever file of the run's folder they are written into."""
    there = shutil.copytree(folder / "run", tmp_path / "run")
    mark = tmp_path / "mark"
    call = f"LabelledFiles.folder = @subprocess.check_output()\n\
subprocess.check_output.args = ['touch', '{mark}']\n"
    (there / "config.gin").write_text(f"import subprocess\n{call}", "utf-8")
    flags = [f"--checkpoint={there}/0", "--languages=de"]
    assert evaluate.main(flags) == 0
    places = json.loads((there / "data.json").read_text("utf-8"))
    assert places["LabelledFiles.folder"] == str(folder / "data")
    # As data a reference is a name of a folder, which is not there.
    (there / "data.json").write_text(
        json.dumps(places | {"LabelledFiles.folder": "@subprocess.check_output()"}), "utf-8"
    )
    capsys.readouterr()
    assert evaluate.main(flags) == 2
    assert "'@subprocess.check_output()/udpos': no such folder" in capsys.readouterr().err
    for wrong in ("{", "[]", '{"LabelledFiles.folder": 3, "LabelledTfds.data_dir": null}'):
        (there / "data.json").write_text(wrong, "utf-8")
        assert evaluate.main(flags) == 2
        assert f"error: {there / 'data.json'} = " in capsys.readouterr().err
    assert not mark.exists()


def test_a_module_that_a_checkpoint_names_is_not_imported(
    folder: pathlib.Path, run: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    read = checkpoints.read_metadata

    def named(checkpoint: pathlib.Path) -> dict[str, Any]:
        metadata = read(checkpoint)
        metadata["finetuning"]["tasks"] = "antigravity"
        return metadata

    monkeypatch.setattr(checkpoints, "read_metadata", named)
    assert evaluate.main([f"--checkpoint={folder / 'run' / '0'}"]) == 2
    assert "names the module 'antigravity'" in capsys.readouterr().err
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("module", ["os", "", ".tasks", "tasks.nothing"])
def test_a_module_without_tasks_is_refused(module: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"Recipe.tasks = {module!r}")):
        import_tasks(module, "Recipe.tasks")
    import_tasks("tasks.downstream", "Recipe.tasks")
    import_tasks("tasks.downstream", "Recipe.tasks")


def test_a_dry_run_says_all_and_writes_nothing(folder: pathlib.Path, capsys: Any) -> None:
    assert finetune.main([*arguments(folder, "dry"), "--dry_run"]) == 0
    text = capsys.readouterr().out
    for words in (
        "encoder on udpos (tagging: 3 labels)",
        "encoder_to_labeller: parameters",
        "dropped",
        "frozen ['token_embedding']",
        "24 examples to train on, 8 to select by f1 (en)",
        "4 updates of 16 examples, 2 an epoch; AdamW, linear schedule with peak 0.001, "
        "linear warm-up of 1, floor 0",
        "seed 0: at step 0",
    ):
        assert words in text
    assert not (folder / "dry").exists()


@pytest.mark.parametrize(
    ("macros", "words"),
    [
        ({"CHECKPOINT": "''"}, "Finetuning.checkpoint = ''"),
        ({"LANGUAGES": "['en', 'xx']"}, "language = 'xx': udpos has en"),
        ({"WARMUP_STEPS": 4}, "AdamW.warmup_steps = 4: must be less than the stage's 4 steps"),
        ({"PEEK": 1}, "--gin.PEEK"),
        ({"LABELLED_FILES": "'nowhere'"}, "nowhere"),
    ],
)
def test_errors_are_one_line(
    folder: pathlib.Path, capsys: Any, macros: dict[str, Any], words: str
) -> None:
    assert finetune.main(arguments(folder, "wrong", **macros)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert not (folder / "wrong").exists()


def test_a_decoder_is_not_asked_of_an_encoder(folder: pathlib.Path, capsys: Any) -> None:
    others = ["--gin_file=gin/finetune/scitldr.gin", *arguments(folder, "wrong")[1:]]
    others.append("--gin.LANGUAGES=['en']")
    assert finetune.main(others) == 2
    assert "is an encoder alone" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "language"), [("udpos", "en"), ("ntrex", "en-de")])
def test_trials_of_a_protocol_score_what_is_trained_on(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: Any, task: str, language: str
) -> None:
    sizes = {"BATCH_SIZE": 8, "INPUT_LENGTH": 24, "TARGET_LENGTH": 24, "WARMUP_STEPS": 1}
    small = tmp_path / "small.gin"
    small.write_text("".join(f"{name} = {value}\n" for name, value in sizes.items()), "utf-8")
    (trial,) = Protocol(
        model_dir=str(tmp_path / "protocol"),
        models={"small": str(folder / "seq2seq")},
        tasks={task: []},
        learning_rates=[0.5],
        gin_files=[str(small)],
        macros={"LABELLED_FILES": str(folder / "data")},
    ).trials()
    program = trial.command.index("seqrecipes.finetune")
    assert finetune.main([*trial.command[program + 1 :], "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert f"({language})" in text and "peak 0.5" in text
    assert f"  scored: {language}\n" in text


@pytest.mark.parametrize("name", TABLE_10)
def test_the_files_are_the_columns_of_table_10(name: str) -> None:
    configuration.load([f"gin/finetune/{name}.gin"], ["CHECKPOINT = 'runs/x'"], search_paths=".")
    found: Finetuning = gin.query_parameter("finetune.finetuning").scoped_configurable_fn()
    adamw = found.optimizer
    assert found.set == name
    assert (
        adamw.peak,
        adamw.warmup,
        adamw.warmup_steps,
        adamw.floor,
        found.batch_size,
        found.epochs,
        found.metric,
        found.max_updates,
    ) == TABLE_10[name]
    assert (adamw.beta1, adamw.beta2, adamw.weight_decay) == (0.9, 0.99, 0.1)
    generates = name in ("mtop", "xsum")
    assert adamw.start == (1e-7 if generates else 0.0)
    assert list(found.freeze) == ([] if generates else ["token_embedding"])
    assert found.best[1] == ("min" if name == "xsum" else "max")
    assert found.search.beams == (3 if generates else 1)
    if not generates:
        assert list(found.hidden) == ([256, 256] if name == "matis" else [512])


FILES = pathlib.Path(ROOT, "gin", "finetune").glob("*.gin")
SHARED = ("defaults", "generation", "demo")


@pytest.mark.parametrize("file", sorted(file for file in FILES if file.stem not in SHARED))
def test_every_file_makes_a_fine_tuning(file: pathlib.Path) -> None:
    configuration.load([str(file)], ["CHECKPOINT = 'runs/x'"], search_paths=".")
    found: Finetuning = gin.query_parameter("finetune.finetuning").scoped_configurable_fn()
    assert found.set == file.stem


def test_updates_are_the_smaller_of_epochs_and_the_limit() -> None:
    """Table 10: 9k updates of UDPOS bind (56 x 167), 5 epochs of XNLI do not reach 30k."""
    job = tiny_runs.finetuning(checkpoint="runs/x", epochs=56, max_updates=9_000)
    assert job.updates(167) == 9_000
    job = tiny_runs.finetuning(checkpoint="runs/x", epochs=5, max_updates=30_000)
    assert job.updates(3_068) == 15_340
    assert tiny_runs.finetuning(checkpoint="x", epochs=2, max_updates=0).updates(7) == 14
