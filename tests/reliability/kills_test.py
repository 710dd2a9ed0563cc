"""The kills themselves take minutes (docs/reliability.md); here is what they rely on."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.downstream import tiny_runs
from tests.reliability import kills, scenes


@pytest.mark.parametrize("activity", kills.ACTIVITIES)
def test_what_kills_are_aimed_at_is_there(activity: str) -> None:
    place, function = kills.place_of(activity)
    assert callable(getattr(place, function))


def test_scenes_aim_at_what_can_be_seen() -> None:
    for scene in scenes.SCENES.values():
        assert set(scene.activities) <= kills.ACTIVITIES.keys()


@pytest.mark.parametrize("scene", scenes.SCENES.values(), ids=scenes.SCENES.keys())
def test_scenes_can_be_started(
    scene: scenes.Scene, vocabulary: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_runs.write_udpos(tmp_path / scenes.DATA)
    tiny_runs.checkpoint(tmp_path / scenes.ENCODER, vocabulary)
    monkeypatch.chdir(kills.ROOT)
    arguments = scene.arguments(tmp_path, tmp_path / "run")
    assert kills.command(scene.name)([*arguments, "--dry_run"]) == 0


def written(folder: pathlib.Path, loss: float, speed: float, repeated: int) -> pathlib.Path:
    """A finished run with a stage, as far as a digest reads files."""
    stage = folder / "stage"
    stage.mkdir(parents=True)
    row = {"step": 2, "train/loss": loss, "speed/tokens_per_second": speed}
    (stage / "metrics.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    steps = 4 + repeated
    phase = {"start": 0, "stop": 4, "steps": steps, "repeated": repeated}
    costs = {"tokens": 8 * steps, "flops": 2.0 * steps, "seconds": {"training": speed}}
    (stage / "ledger.json").write_text(json.dumps({"phases": [phase | costs]}), "utf-8")
    (folder / "recipe.json").write_text(f'{{"warm_start": "{folder}/other"}}', "utf-8")
    return folder


def test_a_digest_leaves_out_what_depends_on_time_and_place_alone(tmp_path: pathlib.Path) -> None:
    one = scenes.digest(written(tmp_path / "one", 1.0, 10.0, 0))
    two = scenes.digest(written(tmp_path / "two", 1.0, 20.0, 3))
    assert scenes.differences(one, two) == []
    assert set(one) == {"stage/metrics.jsonl", "stage/ledger.json", "recipe.json"}
    other = scenes.digest(written(tmp_path / "other", 1.5, 10.0, 0))
    assert scenes.differences(one, other) == ["stage/metrics.jsonl"]
    (tmp_path / "two" / "left.tmp").touch()
    assert scenes.differences(one, scenes.digest(tmp_path / "two")) == ["left.tmp"]
