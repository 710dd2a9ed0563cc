"""What a start prints on standard error: what is ours, and nothing of the libraries below."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import subprocess
import sys

import gin
import pytest

from seqrecipes import protocol
from seqrecipes.errors import UserError
from seqrecipes.models import config as model_config
from tests.commands.harness import ROOT

# Commands that read text, with what brings them to it.
READERS = {
    "train": ["--gin_file=gin/roberta_12e.gin", "--gin_file=gin/demo.gin", "--dry_run"],
    "plan": ["--gin_file=gin/roberta_12e.gin", "--gin_file=gin/demo.gin"],
    "finetune": ["--gin_file=gin/finetune/udpos.gin", "--dry_run"],
    "evaluate": ["--checkpoint=nowhere"],
    "prepare": ["--corpus=sample", "--vocabulary=spm.model", "--output=nowhere", "--dry_run"],
    "inspect_task": ["sample.mlm", "--vocabulary=spm.model"],
    "train_vocabulary": ["--corpus=sample", "--size=500", "--output=nowhere"],
}
# Every reader in one process: which do without TensorFlow, and how loud it would be after them.
LEVELS = """
import importlib, json, os, sys

class Stop(BaseException):
    pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "seqio", "tensorflow_datasets"):
            found.append(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
            raise Stop

sys.meta_path.insert(0, Finder())
levels, found = {}, []
for name, arguments in json.loads(sys.argv[1]).items():
    os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX, imported for the first of them, sets it
    importlib.import_module("seqrecipes." + name).main(arguments)
    try:
        import tensorflow
    except Stop:
        levels[name] = found.pop()
print(json.dumps(levels))
"""


def started(*command: str, folder: pathlib.Path = ROOT) -> tuple[str, str]:
    """Standard output and error of a Python process without the tests' flags."""
    mine = ("JAX_", "XLA_", "TF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_start_says_nothing_that_is_not_ours(tmp_path: pathlib.Path) -> None:
    """With the real TensorFlow, up to the first text that it reads; and from another folder."""
    arguments = READERS["train"]
    code = (
        f"from seqrecipes import train; import sys; status = train.main({arguments!r});"
        "import tensorflow as tf; list(tf.data.Dataset.range(3)); sys.exit(status)"
    )
    output, errors = started("-c", code, folder=tmp_path)
    assert "total" in output
    # Our log's lines begin with the time.
    assert [line for line in errors.splitlines() if line[:8].count(":") != 2] == []
    assert "cuda" not in errors.lower()


def test_every_reader_of_text_does_without_tensorflow_and_quiets_it(
    tmp_path: pathlib.Path,
) -> None:
    output, _ = started("-c", LEVELS, json.dumps(READERS), folder=tmp_path)
    levels = json.loads(output.splitlines()[-1])
    assert levels == dict.fromkeys(READERS, "3")


def test_only_the_greeting_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    from seqrecipes.data.seqio import start

    with start._without_greeting():
        os.write(2, b"I0000 1 cudart_stub.cc:31] Could not find cuda drivers\nours\n")
    with pytest.raises(ValueError, match="it"), start._without_greeting():
        os.write(2, b"before it\n")
        raise ValueError("it")
    assert capfd.readouterr().err == "ours\nbefore it\n"


@pytest.mark.parametrize(
    ("command", "file"),
    [("train", "roberta_12e"), ("plan", "roberta_12e"), ("finetune", "finetune/udpos")],
)
def test_a_task_module_is_named_alike_for_all_commands(
    command: str, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    main = importlib.import_module(f"seqrecipes.{command}").main
    gin.clear_config()
    flags = [f"--gin_file=gin/{file}.gin", "--tasks=os"]
    given = "Finetuning.tasks" if command == "finetune" else "Recipe.tasks"
    assert main([*flags, f"--gin.{given}='tasks.pretrain'"]) == 2
    assert f"--gin.{given} is given too" in capsys.readouterr().err
    gin.clear_config()
    assert main(flags) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    if command == "finetune":  # which misses a checkpoint first
        assert gin.query_parameter(given) == "os"
    else:
        assert f"{given} = 'os': registers no tasks" in error
    gin.clear_config()


def test_files_of_the_clone_are_found_from_anywhere(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    gin.clear_config()
    # The tasks' files are found; the models, which belong to this folder, are not.
    assert protocol.main(["--gin_file=gin/protocol.gin", "--dry_run"]) == 2
    captured = capsys.readouterr()
    assert "udpos: roberta_12e, " in captured.out
    assert "there is no runs/roberta_12e/roberta_12e" in captured.err
    gin.clear_config()
    with pytest.raises(UserError, match=r"here are: configs/\w+\.py, "):
        model_config.load("configs/nothing.py", size="mini", vocab_size=10)
    # A file of that name here is meant first.
    (tmp_path / "gin").mkdir()
    (tmp_path / "gin" / "protocol.gin").write_text("protocol.models = {}\n", "utf-8")
    assert protocol.main(["--gin_file=gin/protocol.gin", "--dry_run"]) == 2
    gin.clear_config()
