"""The step benchmark: what it times, whom it names, and one run of it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import training
from benchmarks.step import cases, programs, rounds
from benchmarks.step.cases import Job
from benchmarks.step.programs import COMPILED, OURS, T5X, TORCH, Program
from benchmarks.timing import Missing
from seqrecipes.errors import UserError
from tests.benchmarks.made_up import measured


def job(decoder_layers: int = 0, **changes: Any) -> Job:
    model = {"vocab_size": 500, "decoder_layers": decoder_layers}
    settings = {"batch": 9, "length": 512, "frozen": False, "warmup": 1, "steps": 2}
    return Job(**{"program": OURS, "model": model, **settings, **changes})


def test_masked_batch_has_real_ids_and_padded_examples() -> None:
    batch = cases.synthetic(job())
    tokens = batch["encoder_input_tokens"]

    # ceil(0.15 * 510), and of the example that ends after 384: ceil(0.15 * 382).
    assert batch["masked_positions"].shape == batch["masked_targets"].shape == (9, 77)
    assert [(tokens[row] != 1).sum() for row in range(9)] == [384, *[512] * 7, 384]
    assert [(batch["masked_targets"][row] != 1).sum() for row in range(9)] == [58, *[77] * 7, 58]
    for row, end in enumerate([383, *[511] * 7, 383]):
        real = batch["masked_targets"][row] != 1
        positions = batch["masked_positions"][row][real]
        assert (np.diff(positions) > 0).all() and positions[0] > 0 and positions[-1] < end
        assert set(np.flatnonzero(tokens[row] == 499)) == set(positions)
        assert batch["masked_targets"][row][real].min() >= 4
        assert (tokens[row, 0], tokens[row, end]) == (0, 2)


def test_sequence_to_sequence_batch_is_full_and_shifted() -> None:
    batch = cases.synthetic(job(decoder_layers=1))
    source, target = batch["encoder_input_tokens"], batch["decoder_target_tokens"]

    assert {name: x.shape for name, x in batch.items()} == dict.fromkeys(batch, (9, 512))
    assert all((x != 1).all() and x.dtype == np.int32 for x in batch.values())
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], target[:, :-1])
    assert ((source == target) | (source == 499)).all()
    assert 0.1 < (source == 499).mean() < 0.2


def test_paper_group_freezes_what_has_a_decoder_and_unties_its_head() -> None:
    group = cases.group("paper")

    assert len(group) == 15 and len({case.name for case in group}) == 15
    frozen = {(case.file, case.vocab_size) for case in group if case.frozen}
    assert frozen == {
        (file, size)
        for file in ("bart_12e12d", "bart_12e2d")
        for size in (32_000, 150_000, 250_000)
    }
    assert all(case.frozen == (case.overrides == {"tie_head": False}) for case in group)
    assert {case.batch for case in group} == {16}
    assert {case.batch for case in cases.group("paper", 3)} == {3}


class Clock:
    """Time in a world where an update takes three seconds, the first ten."""

    def __init__(self, *, waits: bool) -> None:
        self.now, self.busy_until, self.begun, self.waited = 0.0, 0.0, 0, 0
        self.waits = waits

    def step(self) -> float:
        self.busy_until = max(self.now, self.busy_until) + (3.0 if self.begun else 10.0)
        self.begun += 1
        if self.waits:
            self.now = self.busy_until
        return self.busy_until

    def wait(self, end: float) -> None:
        # Something is always in line behind what is waited for, but for the last.
        self.waited += 1
        assert self.begun > self.waited or self.begun == self.waited == 6
        self.now = max(self.now, end)


@pytest.mark.parametrize("waits", [True, False])
def test_times_are_of_whole_steps_whether_or_not_beginning_one_waits(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(waits=waits)
    monkeypatch.setattr(programs.time, "perf_counter", lambda: clock.now)
    program = Program(
        clock.step, clock.wait, float, 1, 1, "cpu", lambda width: lambda: None, lambda: None
    )

    seconds, last = programs.timed(program, 4)

    assert seconds == [3.0] * 4
    assert last == 25.0 == clock.now


def test_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 9.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(programs.time, "perf_counter", lambda: next(ticks))

    assert programs.rate(lambda: None, 100, repetitions=3) == 2e6 / 2.0


def test_peers_that_are_not_installed_say_what_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert programs.missing(OURS, on_cpu=True) is None
    named = {name: programs.missing(name, on_cpu=True) for name in (TORCH, COMPILED, T5X)}
    assert named[TORCH] == "torch, transformers not installed: pip install -e '.[hf]'"
    assert named[COMPILED] == named[TORCH]
    assert (named[T5X] or "").startswith("t5x not installed: pip install -e '.[t5x]'")


def test_compiled_torch_needs_a_compiler_on_processors_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)

    assert "g++" in (programs.missing(COMPILED, on_cpu=True) or "")
    assert programs.missing(COMPILED, on_cpu=False) is None
    assert programs.missing(TORCH, on_cpu=True) is None


def test_t5x_gets_the_cases_it_has_a_model_for_and_all_get_the_overrides() -> None:
    found = {
        case.name: rounds.jobs(case, [OURS, T5X], {"dropout": 0.25}, warmup=1, steps=2)
        for case in cases.group("tiny")
    }

    assert {name: [job.program for job in jobs] for name, jobs in found.items()} == {
        "mlm": [OURS],
        "seq2seq": [OURS, T5X],
        "frozen": [OURS],
    }
    assert {job.model["dropout"] for jobs in found.values() for job in jobs} == {0.25}
    assert Job.from_json(found["frozen"][0].to_json()) == found["frozen"][0]
    assert found["frozen"][0].frozen and not found["frozen"][0].model["tie_head"]
    with pytest.raises(UserError, match="attention_dopout"):
        rounds.jobs(cases.group("tiny")[0], [OURS], {"attention_dopout": 0}, warmup=1, steps=2)


def test_programs_take_turns_and_one_that_fails_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def worker(text: str, allocator: str) -> dict[str, Any]:
        name = Job.from_json(text).program
        order.append(name)
        if name == T5X:
            raise rounds.Failed("exit status -9: out of memory")
        result = dataclasses.asdict(measured("mlm", name, [1.0 * len(order), 2.0]))
        about = result.pop("about")
        return result | about | {"first": 5.0, "faults": 7.0, "memory": len(order)}

    monkeypatch.setattr(rounds, "worker", worker)
    monkeypatch.setattr(rounds.programs, "missing", lambda name, on_cpu: None)
    todo = [job(program=name) for name in (OURS, T5X, TORCH)]

    done, absent = rounds.run("mlm", todo, 2, "keep", on_cpu=True, say=lambda line: None)

    assert order == [OURS, T5X, TORCH, OURS, TORCH]
    assert absent == [Missing("mlm", T5X, "failed: exit status -9: out of memory")]
    assert [each.program for each in done] == [OURS, TORCH]
    assert (done[0].seconds, done[0].memory, done[0].first) == ([1.0, 2.0, 4.0, 2.0], 4, [5.0] * 2)


@pytest.mark.parametrize("allocator", ["keep", "default"])
def test_allocator_is_set_for_the_process_whatever_the_user_has_set(
    allocator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
        seen.update(env)
        return subprocess.CompletedProcess(command, 0, stdout="a warning\n3\n", stderr="")

    monkeypatch.setattr(rounds.subprocess, "run", run)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.setenv("SOMETHING", "else")

    assert rounds.worker("device", allocator) == 3
    assert seen["SOMETHING"] == "else"
    set_for_it = {
        name: value for name, value in seen.items() if name.startswith(("MALLOC_", "GLIBC_"))
    }
    assert set_for_it == rounds.ALLOCATORS[allocator]


def test_process_that_ends_badly_is_reported_by_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="trace\nMemoryError\n")

    monkeypatch.setattr(rounds.subprocess, "run", run)
    with pytest.raises(rounds.Failed, match="exit status 1: MemoryError"):
        rounds.worker("device", "keep")


def test_overrides_are_literals_or_text() -> None:
    assert training.overrides(["dropout=0", "remat=full", "scan_layers=True", "a=b=c"]) == {
        "dropout": 0,
        "remat": "full",
        "scan_layers": True,
        "a": "b=c",
    }
    with pytest.raises(UserError, match="FIELD=VALUE"):
        training.overrides(["dropout"])


@pytest.mark.parametrize(
    ("arguments", "word"), [(["--steps", "1"], "--steps"), (["--set", "x"], "--set")]
)
def test_mistakes_are_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.main(arguments) == 2
    errors = capsys.readouterr().err
    assert word in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_run_of_tiny_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    flags = ["--group", "tiny", "--rounds", "1", "--steps", "2", "--warmup", "1", "--compile"]
    files = ["--json", str(tmp_path / "a.json"), "--picture", str(tmp_path / "a.png")]

    assert training.main([*flags, *files]) == 0

    document = json.loads((tmp_path / "a.json").read_text("utf-8"))
    found = {each["case"]: each for each in document["measured"]}
    assert list(found) == ["mlm", "seq2seq", "frozen"]
    # By hand for two examples of 32 tokens, one layer of width 16 and 32, three passes: projections
    # and feed-forward 2 * 32 * (4 * 16 * 16 + 2 * 16 * 32), attention 2 * 2 * 32 * 32 * 16.
    assert found["mlm"]["flops"]["encoder"] == 2 * 3 * (131_072 + 65_536)
    assert found["frozen"]["flops"]["encoder"] == 2 * (131_072 + 65_536)
    for each in found.values():
        assert each["program"] == OURS and each["tokens"] == 64
        assert len(each["seconds"]) == 2 and min(each["seconds"]) > 0
        assert each["tokens_per_second"] == pytest.approx(64 / each["step_seconds"])
        assert each["memory"] > 2**27 and each["first"][0] > 0 and each["faults"][0] >= 0
        assert each["product"] <= document["peak"]["operations_per_second"]
        total = sum(each["utilisation"].values())
        shares = [x / total for x in each["utilisation"].values()]
        flops = [x / sum(each["flops"].values()) for x in each["flops"].values()]
        assert sum(shares) == pytest.approx(1) and shares == pytest.approx(flops)
        assert each["about"]["losses"] == pytest.approx([math.log(64)] * 2, abs=0.2)
    about = found["frozen"]["about"]
    assert about["trained"] < about["parameters"]
    assert found["mlm"]["about"]["trained"] == found["mlm"]["about"]["parameters"]
    assert {(each["group"], each["name"]) for each in document["missing"]} == {
        *((case, name) for case in found for name in (TORCH, COMPILED)),
        ("seq2seq", T5X),
    }
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "seq2seq, t5x: not measured: t5x not installed" in capsys.readouterr().out
