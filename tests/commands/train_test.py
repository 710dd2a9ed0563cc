"""The training command: undisturbed, killed, stopped, on other meshes, in two processes."""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import signal
import socket
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import safetensors.numpy

from tests.commands import harness

pytestmark = pytest.mark.slow

STAGES = {"roberta_12e": 30, "2stage_bart_12e12d_unfrz": 30}


def run(model_dir: pathlib.Path, *, devices: int = 1, extra: tuple[str, ...] = (), **macros) -> str:
    log = model_dir.with_suffix(".log")
    arguments = [*harness.arguments(model_dir, **macros), *extra]
    status = harness.start(arguments, devices=devices, log=log).wait()
    text = log.read_text("utf-8", "replace")
    assert status == 0, text[-3000:]
    return text


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> pathlib.Path:
    """An undisturbed run, started as people start it."""
    model_dir = tmp_path_factory.mktemp("runs") / "reference"
    log = model_dir.with_suffix(".log")
    assert harness.fresh(harness.arguments(model_dir), log=log) == 0, log.read_text()[-3000:]
    return model_dir


def copy_inputs(reference: pathlib.Path, model_dir: pathlib.Path) -> pathlib.Path:
    """A folder with what of the reference takes time to make: vocabulary, blocks, programs."""
    for name in ("vocabulary", "data", "compiled"):
        shutil.copytree(reference / name, model_dir / name)
    return model_dir


def rows(model_dir: pathlib.Path, stage: str) -> list[dict]:
    text = (model_dir / stage / "metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_same_params(
    ours: pathlib.Path,
    theirs: pathlib.Path,
    stages: Mapping[str, int] = STAGES,
    *,
    exactly: bool = True,
) -> None:
    for stage, step in stages.items():
        a, b = (harness.final_params(run / stage, step) for run in (ours, theirs))
        assert a.keys() == b.keys()
        for path in a:
            if exactly:
                np.testing.assert_array_equal(a[path], b[path], err_msg=path)
            else:
                # Adam turns rounding in tiny gradients into steps of up to the learning rate.
                np.testing.assert_allclose(a[path], b[path], atol=2e-4, err_msg=path)


def test_the_run_leaves_what_it_promises(reference):
    for stage, step in STAGES.items():
        folder = reference / stage
        assert (folder / "checkpoints" / str(step)).is_dir()
        assert list(folder.glob("events.out.tfevents.*"))
        losses = [row["train/loss"] for row in rows(reference, stage) if "train/loss" in row]
        assert losses[-1] < losses[0]
        assert [row["step"] for row in rows(reference, stage) if "validation/loss" in row] == [
            10,
            20,
            30,
        ]
        assert "total" in (folder / "model-info.txt").read_text("utf-8")
        costs = json.loads((folder / "ledger.json").read_text("utf-8"))["total"]
        assert (costs["steps"], costs["repeated"]) == (step, 0)
        assert costs["tokens"] == step * 8 * 32
        assert costs["seconds"]["training"] > 0 and costs["seconds"]["compilation"] > 0
    assert (reference / "config.gin").is_file()
    assert (reference / "compiled").is_dir()
    assert (reference / "report.md").read_text("utf-8").count("30 of 30") == 2
    assert "Spent" in (reference / "report.md").read_text("utf-8")
    assert (reference / "curves.png").read_bytes()[:4] == b"\x89PNG"
    moved = (reference / "2stage_bart_12e12d_unfrz" / "warm-start.txt").read_text("utf-8")
    assert "copy of token_embedding/embedding" in moved


def test_frozen_parameters_are_bit_identical_to_the_encoder(reference):
    encoder = harness.final_params(reference / "roberta_12e", 30)
    seq2seq = reference / "2stage_bart_12e12d_unfrz"
    in_frozen_phase, final = (harness.final_params(seq2seq, step) for step in (14, 30))
    shared = [path for path in encoder if path.startswith(("encoder/", "token_embedding/"))]
    assert len(shared) == 22  # 3 embeddings, 2 final norm, 16 in the layers, the token table
    for path in shared:
        np.testing.assert_array_equal(in_frozen_phase[path], encoder[path], err_msg=path)
        assert (final[path] != encoder[path]).any(), path
    table = encoder["token_embedding/embedding"]
    assert (in_frozen_phase["lm_head/embedding"] != table).any()
    assert np.abs(in_frozen_phase["lm_head/embedding"] - table).max() < 0.05, "began as its copy"


def test_killed_and_interrupted_at_random_and_resumed_bit_for_bit(reference, tmp_path):
    model_dir = copy_inputs(reference, tmp_path / "killed")
    chance = random.Random()
    points = sorted(chance.sample(range(2, 11), 2))
    signals = chance.sample([signal.SIGKILL, signal.SIGINT], 2)
    print(f"{signals} when the metrics of both stages have so many lines: {points}")
    for point, signum in zip(points, signals, strict=True):

        def reached(point=point) -> bool:
            files = [model_dir / stage / "metrics.jsonl" for stage in STAGES]
            lines = [f.read_bytes().count(b"\n") for f in files if f.exists()]
            return sum(lines) >= point

        process = harness.start(harness.arguments(model_dir), log=tmp_path / "killed.log")
        process.wait_for(reached)
        process.send_signal(signum)
        expected = -signum if signum == signal.SIGKILL else 128 + signum
        assert process.wait() == expected, "too late"
    text = (tmp_path / "killed.log").read_text("utf-8") + run(model_dir)
    assert "resuming" in text and "SIGINT" in text and "saved" in text
    assert_same_params(model_dir, reference)
    for stage, step in STAGES.items():
        costs = json.loads((model_dir / stage / "ledger.json").read_text("utf-8"))["total"]
        assert costs["steps"] - costs["repeated"] == step, (
            "none lost, and none counted as new twice"
        )
        ours, theirs = (
            {row["step"]: row.get("validation/loss") for row in rows(d, stage)}
            for d in (model_dir, reference)
        )
        assert ours.items() >= {k: v for k, v in theirs.items() if v is not None}.items()


def test_a_signal_saves_and_other_devices_go_on(reference, tmp_path):
    model_dir = copy_inputs(reference, tmp_path / "stopped")
    first = model_dir / "roberta_12e" / "metrics.jsonl"
    process = harness.start(harness.arguments(model_dir), log=tmp_path / "log")
    process.wait_for(lambda: first.exists() and b"\n" in first.read_bytes())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert "saved" in (tmp_path / "log").read_text("utf-8")
    # Another mesh at the restart changes rounding only.
    stage = "roberta_12e"
    run(model_dir, devices=4, extra=(f"--stage={stage}",), DATA=2, TENSOR=2)
    assert_same_params(model_dir, reference, {stage: STAGES[stage]}, exactly=False)


def test_a_second_run_skips_what_is_finished_and_exports_what_is_asked_for(reference):
    text = run(reference, EXPORT_HF=True)
    assert text.count("finished already, skipped") == 2
    assert text.count("/hf (") == 2
    for stage, step in STAGES.items():
        folder = reference / stage / "hf"
        table = harness.final_params(reference / stage, step)["token_embedding/embedding"]
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        assert any(np.array_equal(table, tensor) for tensor in tensors.values())
        card = (folder / "README.md").read_text("utf-8")
        assert f"| {stage} |" in card and "| 30 | 7,680 |" in card
    assert run(reference, EXPORT_HF=True).count("/hf (") == 2, "of the run before, in the same log"


def test_a_stage_alone_needs_its_source(reference, tmp_path):
    model_dir = copy_inputs(reference, tmp_path / "alone")
    stage = "--stage=2stage_bart_12e12d_unfrz"
    process = harness.start([*harness.arguments(model_dir), stage], log=tmp_path / "log")
    assert process.wait() == 2
    assert "stands at step 0 of 30; train it first" in (tmp_path / "log").read_text("utf-8")


def test_a_stage_starts_from_another_runs_checkpoint(reference, tmp_path):
    shutil.copytree(reference / "compiled", tmp_path / "other" / "compiled")
    text = run(
        tmp_path / "other",
        **{
            "Recipe.stages": "[@seq2seq/Stage()]",
            "VOCABULARY": repr(str(reference / "vocabulary" / "spm.model")),
            "WarmStart.source": repr(str(reference / "roberta_12e")),
            "seq2seq/Stage.phases": "[@unfrozen/Phase()]",
            "UNFROZEN_STEPS": 2,
            "WARMUP_STEPS": 1,
            # What the stage left out alone would read.
            "MLM_STEPS": None,
            "FROZEN_STEPS": None,
            "Stage.model_overrides": None,
        },
    )
    assert f"warm start from {reference}/roberta_12e" in text
    copies = [d / "vocabulary" / "spm.model" for d in (tmp_path / "other", reference)]
    assert copies[0].read_bytes() == copies[1].read_bytes(), "a run is whole without its source"
    ours = harness.final_params(tmp_path / "other" / "2stage_bart_12e12d_unfrz", 2)
    theirs = harness.final_params(reference / "roberta_12e", 30)
    table = "token_embedding/embedding"
    assert 0 < np.abs(ours[table] - theirs[table]).max() < 2e-3, "one step away"


@pytest.mark.parametrize("flag", ["--dry_run", "--stage=roberta_12e"])
def test_another_recipe_is_refused_before_anything_is_written(reference, tmp_path, flag):
    before = sorted(reference.rglob("*"))
    command = [*harness.arguments(reference, UNFROZEN_STEPS=16, SEQUENCE_LENGTH=40), flag]
    process = harness.start(command, log=tmp_path / "log")
    assert process.wait() == 2
    text = (tmp_path / "log").read_text("utf-8")
    assert "holds another recipe" in text
    assert "phases[1].steps: 15 there, 16 now" in text
    assert "sequence_length: 32 there, 40 now" in text
    assert sorted(reference.rglob("*")) == before


def test_a_checkpoint_cut_off_half_way_is_ignored_and_said(reference, tmp_path):
    model_dir = tmp_path / "cut"
    shutil.copytree(reference, model_dir)
    stage = model_dir / "2stage_bart_12e12d_unfrz"
    last = stage / "checkpoints" / "30"
    last.rename(last.with_name("30.orbax-checkpoint-tmp"))
    text = run(model_dir)
    assert "cut off before it was complete" in text
    assert "resuming at step 28" in text
    assert_same_params(model_dir, reference)


def test_two_processes_train_the_same_model(reference, tmp_path):
    """The first stage, interrupted, and as much of the second as its first checkpoint takes."""
    model_dir = copy_inputs(reference, tmp_path / "two")
    macros = {"FSDP": 2, "EXPORT_HF": True, "VALIDATE_EVERY": 30}
    first, second = (model_dir / stage for stage in STAGES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def stopped(condition: Callable[[], bool]) -> list[int]:
        processes = [
            harness.start(
                [
                    *harness.arguments(model_dir, **macros),
                    f"--coordinator_address=127.0.0.1:{port}",
                    "--process_count=2",
                    f"--process_index={index}",
                ],
                devices=2,
                log=tmp_path / f"{index}.log",
            )
            for index in range(2)
        ]
        processes[0].wait_for(condition)
        processes[1].send_signal(signal.SIGTERM)  # one is enough: they agree on a step
        return [process.wait() for process in processes]

    def log() -> str:
        return (tmp_path / "0.log").read_text("utf-8")[-3000:]

    metrics = first / "metrics.jsonl"
    assert stopped(lambda: metrics.exists() and b"\n" in metrics.read_bytes()) == [143, 143], log()
    assert not (first / "checkpoints" / "30").exists()
    assert stopped((second / "checkpoints" / "7").is_dir) == [143, 143], log()
    assert (first / "hf" / "model.safetensors").is_file()
    assert_same_params(model_dir, reference, {first.name: 30, second.name: 7}, exactly=False)
