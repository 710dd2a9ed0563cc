"""Fine-tuning through real seqio sets: what it reads when, what it leaves, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import hugging_face
from seqrecipes.config.optimizers import AdamW
from seqrecipes.data.labelled import examples
from seqrecipes.downstream import runs, scoring, sources
from seqrecipes.downstream.evaluation import FineTuned
from seqrecipes.downstream.runs import Run
from seqrecipes.finetuning import Facts
from seqrecipes.training import checkpoints, loop, reporting
from tests.commands.harness import final_params
from tests.downstream import tiny_runs

pytestmark = pytest.mark.usefixtures("data")


def scores_of(seed_dir: pathlib.Path) -> dict[str, Any]:
    return json.loads((seed_dir / "scores.json").read_text())


def params_of(seed_dir: pathlib.Path) -> dict[str, np.ndarray]:
    return final_params(seed_dir, scores_of(seed_dir)["best_step"])


def test_a_run_trains_selects_scores_and_clears(done: Any, folder: pathlib.Path) -> None:
    _job, run_dir, text = done
    for seed in (0, 3):
        scores = scores_of(run_dir / str(seed))
        assert {name: scores[name] for name in ("task", "model", "seed", "metric")} == {
            "task": "udpos",
            "model": "encoder",
            "seed": seed,
            "metric": "f1",
        }
        assert scores["learning_rate"] == 1e-2
        assert scores["scores"].keys() == {"en", "de"}
        rows = reporting.read_metrics(run_dir / str(seed) / "metrics.jsonl")
        validations = {r["step"]: r["validation/f1"] for r in rows if "validation/f1" in r}
        assert validations.keys() == {2, 4, 6, 8}
        assert validations[scores["best_step"]] == max(validations.values())
        assert scores["validation"]["f1"] == max(validations.values())
        # Only the best parameters stay.
        (kept,) = (run_dir / str(seed) / "checkpoints").iterdir()
        assert kept.name == str(scores["best_step"])
        assert not (kept / "optimizer").exists()
    assert "encoder on udpos, 2 seeds" in text
    english = [scores_of(run_dir / s)["scores"]["en"]["f1"] for s in ("0", "3")]
    assert f"f1 {np.mean(english):.1f} ± {np.std(english, ddof=1):.1f}" in text
    source = final_params(folder / "encoder", 0)
    ours, other = params_of(run_dir / "0"), params_of(run_dir / "3")
    np.testing.assert_array_equal(
        ours["token_embedding/embedding"], source["token_embedding/embedding"]
    )
    changed = "encoder/stack/layers/mlp/input/kernel"
    assert not np.array_equal(ours[changed], source[changed])
    assert not np.array_equal(ours[changed], other[changed])


def test_predictions_are_as_many_as_words_and_score_what_was_reported(done: Any) -> None:
    _, run_dir, _ = done
    from seqrecipes.downstream import metrics

    for language in ("en", "de"):
        lines = (run_dir / "0" / "predictions" / f"{language}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == (6 if language == "en" else 5)
        for row in rows:
            assert len(row["input"]) == len(row["prediction"]) == len(row["reference"])
        again = metrics.tag_f1([r["reference"] for r in rows], [r["prediction"] for r in rows])
        assert again == scores_of(run_dir / "0")["scores"][language]


def test_a_finished_seed_is_skipped(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, run_dir, text = done

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(loop, "train", refuse)
    monkeypatch.setattr(runs.scoring, "score_languages", refuse)
    assert Run(job, str(run_dir)).execute() == text
    state = Run(job, str(run_dir)).describe()
    assert "seed 0: finished" in state and "8 updates of 8 examples, 3 an epoch" in state


def test_evaluating_the_checkpoint_gives_the_same_scores(done: Any, tmp_path: Any) -> None:
    _, run_dir, _ = done
    tuned = FineTuned(str(run_dir / "0"))
    assert tuned.evaluate([], "test", output=tmp_path) == scores_of(run_dir / "0")["scores"]
    for language in ("en", "de"):
        ours = run_dir / "0" / "predictions" / f"{language}.jsonl"
        assert (tmp_path / f"{language}.jsonl").read_text() == ours.read_text()
    scores = tuned.evaluate(["en"], "validation")["en"]
    assert scores["f1"] == scores_of(run_dir / "0")["validation"]["f1"]


class Stopped(BaseException):
    """As if the process had been killed."""


@pytest.mark.parametrize("validations", [1, 3])
def test_a_killed_seed_goes_on_bit_for_bit(
    done: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, validations: int
) -> None:
    job, run_dir, _ = done
    job = dataclasses.replace(job, seeds=(3,))
    evaluate, seen = scoring.Scorer.evaluate, []

    def killed(self: Any, params: Any, examples: Any) -> Any:
        if len(seen) == validations:
            raise Stopped
        seen.append(1)
        return evaluate(self, params, examples)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(scoring.Scorer, "evaluate", killed)
        Run(job, str(tmp_path)).execute()
    assert checkpoints.latest_step(tmp_path / "3") == 2 * validations
    Run(job, str(tmp_path)).execute()
    assert scores_of(tmp_path / "3") == scores_of(run_dir / "3")
    ours, theirs = params_of(tmp_path / "3"), params_of(run_dir / "3")
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_a_seed_killed_while_it_is_scored_is_scored_again(
    done: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, run_dir, _ = done
    job = dataclasses.replace(job, seeds=(3,))

    def killed(*args: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(runs.scoring, "score_languages", killed)
        Run(job, str(tmp_path)).execute()
    with monkeypatch.context() as patched:
        patched.setattr(runs, "_clear", killed)
        with pytest.raises(Stopped):
            Run(job, str(tmp_path)).execute()
    assert (tmp_path / "3" / "scores.json").exists()
    Run(job, str(tmp_path)).execute()
    assert scores_of(tmp_path / "3") == scores_of(run_dir / "3")
    assert len(list((tmp_path / "3" / "checkpoints").iterdir())) == 1


def test_nothing_but_english_train_and_dev_is_read_before_training_ends(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint cannot depend on what has not been read."""
    log: list[Any] = []
    read, train = examples.read, loop.train

    def spied(name: str, language: str, split: str, **settings: Any) -> Any:
        log.append((language, split))
        return read(name, language, split, **settings)  # type: ignore[arg-type]

    def trained(*args: Any, **settings: Any) -> Any:
        result = train(*args, **settings)
        log.append("trained")
        return result

    monkeypatch.setattr(examples, "read", spied)
    monkeypatch.setattr(loop, "train", trained)
    job = tiny_runs.finetuning(checkpoint=str(folder / "encoder"), max_updates=2)
    Run(job, str(tmp_path)).execute()
    assert log == [
        ("en", "train"),
        ("en", "validation"),
        "trained",
        ("en", "test"),
        ("de", "test"),
    ]


def test_perplexity_is_minimised_and_a_decoder_is_trained(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = tiny_runs.finetuning(
        set="scitldr",
        checkpoint=str(folder / "seq2seq"),
        metric="perplexity",
        lengths={"encoder_input_tokens": 24, "decoder_target_tokens": 12},
        languages=("en",),
        freeze=(),
        epochs=8,
        optimizer=AdamW(peak=1e-2, warmup_steps=1, floor=1e-3),
    )
    assert job.best == ("perplexity", "min")
    Run(job, str(tmp_path)).execute()
    scores = scores_of(tmp_path / "0")
    rows = reporting.read_metrics(tmp_path / "0" / "metrics.jsonl")
    found = {r["step"]: r for r in rows if "validation/perplexity" in r}
    for row in found.values():
        assert row["validation/perplexity"] == pytest.approx(np.exp(row["validation/loss"]))
    lowest = min(found, key=lambda step: found[step]["validation/perplexity"])
    assert scores["best_step"] == lowest
    assert scores["scores"]["en"].keys() == {"rouge1", "rouge2", "rougeL"}
    lines = (tmp_path / "0" / "predictions" / "en.jsonl").read_text().splitlines()
    assert [json.loads(line)["reference"] for line in lines] == [
        ["river", "the"],
        ["house", "the"],
        ["tree", "the"],
    ]
    assert FineTuned(str(tmp_path / "0")).evaluate([], "test") == scores["scores"]
    # A fine-tuned seq2seq model is one like any other, for export.
    hugging_face.export_checkpoint(FineTuned(str(tmp_path / "0")).folder, tmp_path / "hf")


def test_generation_may_be_selected_by_what_is_written(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = tiny_runs.finetuning(
        set="scitldr",
        checkpoint=str(folder / "seq2seq"),
        metric="rougeL",
        lengths={"encoder_input_tokens": 24, "decoder_target_tokens": 12},
        languages=("en",),
        max_updates=2,
    )
    Run(job, str(tmp_path)).execute()
    assert scores_of(tmp_path / "0")["validation"].keys() == {"rouge1", "rouge2", "rougeL"}


@pytest.mark.parametrize(
    ("name", "metric", "names", "prediction"),
    [
        ("xsid", "slot_f1", {"intent_accuracy", "slot_f1"}, {"intent", "tags"}),
        ("xnli", "accuracy", {"accuracy"}, None),
    ],
)
def test_the_other_kinds_are_learned_from_a_seq2seq_models_encoder(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    name: str,
    metric: str,
    names: set[str],
    prediction: set[str] | None,
) -> None:
    others = ("en", "fr") if name == "xnli" else ("en", "de")
    job = tiny_runs.finetuning(
        set=name,
        metric=metric,
        checkpoint=str(folder / "seq2seq"),
        languages=others,
        epochs=100,
        max_updates=120,
        validate_every=40,
    )
    Run(job, str(tmp_path)).execute()
    scores = scores_of(tmp_path / "0")["scores"]
    assert scores.keys() == set(others)
    assert scores["en"].keys() == names
    assert scores["en"][metric] == 100.0, "what is so plain is learned"
    lines = (tmp_path / "0" / "predictions" / "en.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["prediction"] == first["reference"]
    if prediction:
        assert first["prediction"].keys() == prediction


def test_random_weights_are_a_baseline_that_says_so(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = tiny_runs.finetuning(checkpoint=str(folder / "encoder"), weights="random", max_updates=2)
    run = Run(job, str(tmp_path))
    assert "from random weights" in run.describe()
    run.execute()
    assert scores_of(tmp_path / "0")["model"] == "encoder (random weights)"
    path = "token_embedding/embedding"  # frozen, so that it is as it began
    ours, theirs = params_of(tmp_path / "0")[path], final_params(folder / "encoder", 0)[path]
    assert ours.shape == theirs.shape
    assert not np.array_equal(ours, theirs)


def test_a_folder_of_hugging_faces_format_is_the_same_source(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    checkpoint = checkpoints.find(folder / "encoder", field="x")
    hugging_face.export_checkpoint(checkpoint, tmp_path / "exported")
    job = tiny_runs.finetuning(checkpoint=str(tmp_path / "exported"))
    found = [
        sources.find(each, tmp_path / "run")
        for each in (job, tiny_runs.finetuning(checkpoint=str(folder / "encoder")))
    ]
    assert [source.name for source in found] == ["exported", "encoder"]
    assert found[0].vocabulary == found[1].vocabulary
    model = Facts(
        "udpos", "", "", 0, 0.0, {"words": ["a", "b"]}, (4,), {}, "en", "f1", job.search, 8
    ).model(found[0].encoder_config())
    placement = job.partitioning.placement()
    ours, theirs = (source.params(model, 0, placement) for source in found)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
