"""What fine-tuning refuses, before anything is trained; and what `evaluate` does."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

import gin
import pytest

from seqrecipes.config.optimizers import AdamW
from seqrecipes.downstream.evaluation import FineTuned
from seqrecipes.downstream.runs import Run
from seqrecipes.errors import UserError
from seqrecipes.folders import write_file
from seqrecipes.training import loop
from tests.downstream import tiny_runs

pytestmark = pytest.mark.usefixtures("data")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"set": "udpost"}, "set", "udpos"),
        ({"languages": ("en", "xx")}, "language", "udpos has"),
        ({"languages": ("en", "fr")}, "Finetuning.languages", "no test"),
        ({"languages": ()}, "Finetuning.languages", "no test"),
        ({"language": "de"}, "Finetuning.language", "no train"),
        ({"metric": "f2"}, "Finetuning.metric", "f1, accuracy"),
        ({"metric": "perplexity"}, "Finetuning.metric", "f1, accuracy"),
        ({"optimizer": AdamW(warmup_steps=8)}, "AdamW.warmup_steps", "8 steps"),
        ({"freeze": ("embeddings",)}, "Phase.freeze", "matches no parameter"),
        ({"lengths": {"encoder_input_tokens": 41}}, "Finetuning.lengths", "40 positions"),
        ({"lengths": {"decoder_target_tokens": 9}}, "lengths", "tagging has"),
        ({"batch_size": 9}, "Finetuning.batch_size", "multiple"),
        ({"checkpoint": ""}, "Finetuning.checkpoint", "name what to fine-tune"),
        ({"checkpoint": "nowhere"}, "Finetuning.checkpoint", "does not exist"),
        ({"checkpoint": "configs/roberta_12e.py"}, "Finetuning.checkpoint", "holds no weights"),
        (
            {"checkpoint": "configs/roberta_12e.py", "weights": "random"},
            "Finetuning.vocabulary",
            "spm.model",
        ),
        ({"size": "mini"}, "Finetuning.size", "configs/"),
        ({"model_overrides": {"norm": "post"}}, "Finetuning.model_overrides", "dropout"),
        ({"tasks": "tasks.upstream"}, "Finetuning.tasks", "name a module such as tasks.pretrain"),
        (
            {
                "set": "scitldr",
                "languages": ("en",),
                "lengths": {"encoder_input_tokens": 24, "decoder_target_tokens": 12},
            },
            "Finetuning.checkpoint",
            "is an encoder alone",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    field: str,
    words: str,
) -> None:
    monkeypatch.setattr(loop, "train", None)
    job = tiny_runs.finetuning(**({"checkpoint": str(folder / "encoder")} | changes))
    for attempt in (Run(job, str(tmp_path / "run")).describe, Run(job, str(tmp_path)).execute):
        with pytest.raises(UserError) as caught:
            attempt()
        assert caught.value.field == field
        assert words in str(caught.value)
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seeds": ()}, "Finetuning.seeds"),
        ({"seeds": (1, 1)}, "Finetuning.seeds"),
        ({"weights": "none"}, "Finetuning.weights"),
        ({"languages": "en"}, "Finetuning.languages"),
        ({"freeze": "encoder"}, "Finetuning.freeze"),
        ({"epochs": 0}, "Finetuning.epochs"),
    ],
)
def test_values_that_cannot_be_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        tiny_runs.finetuning(**({"checkpoint": "runs/x"} | changes))
    assert caught.value.field == field


def test_labels_and_empty_tests_of_other_languages_are_looked_at_first(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    gin.bind_parameter("LabelledFiles.folder", str(tmp_path / "data"))
    job = tiny_runs.finetuning(checkpoint=str(folder / "encoder"))
    file = tmp_path / "data" / "udpos" / "de" / "test.tsv"
    file.write_text("der\tARTIKEL\n")
    with pytest.raises(UserError, match="ARTIKEL"):
        Run(job, str(tmp_path / "run")).execute()
    file.write_text("")
    with pytest.raises(UserError, match="not a single example"):
        Run(job, str(tmp_path / "run")).execute()


def test_a_folder_of_another_fine_tuning_is_refused(done: Any) -> None:
    job, run_dir, _ = done
    other = dataclasses.replace(job, optimizer=AdamW(peak=2e-2, warmup_steps=1, floor=0.0))
    with pytest.raises(UserError, match=r"optimizer\.peak: 0\.01 there, 0\.02 now"):
        Run(other, str(run_dir)).execute()
    said = run_dir / "finetuning.json"
    content = said.read_text("utf-8")
    said.unlink()  # the checkpoints say it too
    with pytest.raises(UserError, match=r"optimizer\.peak: 0\.01 there, 0\.02 now"):
        Run(other, str(run_dir)).execute()
    said.write_text(content[:40])
    with pytest.raises(UserError, match=r"finetuning\.json.*cannot be read"):
        Run(job, str(run_dir)).execute()
    said.write_text(content)
    # More seeds are the same fine-tuning.
    assert (
        "seed 7: at step 0"
        in Run(dataclasses.replace(job, seeds=(0, 3, 7)), str(run_dir)).describe()
    )


def test_a_checkpoint_is_not_scored_on_other_labels(
    done: Any, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    _, run_dir, _ = done
    shutil.copytree(folder / "data", tmp_path / "data")
    gin.bind_parameter("LabelledFiles.folder", str(tmp_path / "data"))
    with (tmp_path / "data" / "udpos" / "en" / "train.tsv").open("a") as file:
        file.write("oh\tINTJ\n\n")
    with pytest.raises(UserError, match="INTJ"):
        FineTuned(str(run_dir / "0")).evaluate(["en"], "test")


def test_what_is_not_fine_tuned_is_not_scored(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="is not fine-tuned"):
        FineTuned(str(folder / "encoder"))


def test_a_fine_tuned_checkpoint_is_no_source(done: Any, tmp_path: pathlib.Path) -> None:
    _, run_dir, _ = done
    job = tiny_runs.finetuning(checkpoint=str(run_dir / "0"))
    with pytest.raises(UserError, match="fine-tuned already"):
        Run(job, str(tmp_path)).execute()


def test_an_unfinished_scoring_is_not_taken_for_scores(tmp_path: pathlib.Path) -> None:
    write_file(tmp_path / "a" / "scores.json", "{}")
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["scores.json"]
