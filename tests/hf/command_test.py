"""The convert command with `--verify`, and files of PyTorch's."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from seqrecipes import convert, tree
from seqrecipes.conversion.hf import files, parity
from seqrecipes.errors import UserError
from seqrecipes.training import checkpoints
from tests.hf import harness
from tests.hf.parity_test import REPORT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, vocabulary) -> Path:
    folder = tmp_path_factory.mktemp("run") / "stage"
    config = harness.config(vocabulary, tie_head=False)
    checkpoints.save_params(
        folder,
        tree.unflatten(harness.random_leaves(config)),
        {"model": config.to_dict(), "converted_from": "chance", "conversion": "none"},
        vocabulary=vocabulary,
        account="random",
    )
    return folder


def run(*arguments: object) -> int:
    return convert.main([str(argument) for argument in arguments])


def test_both_ways_are_compared_and_the_report_stays(checkpoint, tmp_path, capsys):
    assert run("--to=hf", "--verify", checkpoint, tmp_path / "out") == 0
    assert run("--from=hf", "--verify", tmp_path / "out", tmp_path / "in") == 0
    printed = capsys.readouterr().out
    for folder in ("out", "in"):
        report = json.loads((tmp_path / folder / "parity.json").read_text("utf-8"))
        assert report["passed"] and report["model_class"] == "MBartForConditionalGeneration"
        assert {each["name"] for each in report["comparisons"]} >= {"text: ar", "text: te"}
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    table = [line for line in card.splitlines() if "text: te" in line]
    assert len(table) == 1 and printed.count(table[0].strip()) >= 1


@pytest.mark.parametrize("way", ["--to=hf", "--from=hf"])
def test_where_the_two_differ_nothing_is_written(checkpoint, tmp_path, capsys, monkeypatch, way):
    source = checkpoint
    if way == "--from=hf":
        source = tmp_path / "source"
        assert run("--to=hf", checkpoint, source) == 0
    differing = dataclasses.replace(REPORT, problems=("one weight is another",))
    monkeypatch.setattr(parity, "verify", lambda *_, **__: differing)
    before = sorted(tmp_path.iterdir())
    assert run(way, "--verify", source, tmp_path / "out") == 2
    assert "one weight is another" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


class Harmful:
    """What a file may hold that is more than tensors."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_file_that_holds_more_than_tensors_runs_nothing(tmp_path):
    target = tmp_path / "touched"
    torch.save({"weight": torch.ones(2), "more": Harmful(target)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than plain tensors"):
        files.Weights(tmp_path)
    assert not target.exists()


def test_files_older_than_zip_archives_and_shards_are_read(tmp_path):
    tensors = {name: torch.rand(3, 2) for name in ("a", "b")}
    for index, name in enumerate(tensors):
        torch.save(
            {name: tensors[name]},
            tmp_path / f"part{index}.bin",
            _use_new_zipfile_serialization=bool(index),
        )
    shards = {"weight_map": {"a": "part0.bin", "b": "part1.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(shards))
    weights = files.Weights(tmp_path)
    assert weights.shapes == {"a": (3, 2), "b": (3, 2)}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(weights.read(name), tensor.numpy())
    (tmp_path / "part0.bin").write_bytes((tmp_path / "part0.bin").read_bytes()[:100])
    with pytest.raises(UserError, match=r"part0\.bin.*damaged"):
        files.Weights(tmp_path)
