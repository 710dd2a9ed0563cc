"""Averages over languages and seeds, and runs that do not belong together."""

from __future__ import annotations

import json
import pathlib

import pytest

from seqrecipes.downstream import results, runs
from seqrecipes.downstream.results import AVERAGE
from seqrecipes.errors import UserError
from tests.downstream.harness import write_scores


def by_language(**values: float) -> dict[str, dict[str, float]]:
    return {language: {"f1": value, "accuracy": 0.0} for language, value in values.items()}


def read(folder: pathlib.Path) -> list[results.Result]:
    return results.read(results.find([folder]))


def test_deviations_are_of_each_seeds_own_average(tmp_path):
    """Languages that move against each other: the average is steady though no language is."""
    for seed, (de, fr, ja) in enumerate([(60, 80, 10), (80, 60, 13), (70, 70, 16)]):
        write_scores(tmp_path, by_language(de=de, en=95, fr=fr, ja=ja), seed=seed)
    (result,) = read(tmp_path)
    assert result.languages == ["en", "de", "fr", "ja"]
    assert result.statistic("f1", "en") == (95.0, 0.0, 3)
    # 50, 51 and 52, without English; n - 1 = 2 below the squares' sum of 2.
    assert result.statistic("f1", AVERAGE) == (51.0, pytest.approx(1.0), 3)
    assert result.statistic("f1", "de") == (70.0, pytest.approx(10.0), 3)
    assert result.statistic("f1", "hi") is None


def test_the_language_trained_on_is_left_out(tmp_path):
    """The same scores of a model trained on another language have another average."""
    write_scores(tmp_path, by_language(en=50, de=90, fr=60), model="german", language="de")
    write_scores(tmp_path, by_language(en=50, de=90, fr=60), model="english", language="en")
    german, english = sorted(read(tmp_path), key=lambda each: each.model, reverse=True)
    assert (german.trained, german.languages) == ("de", ["de", "en", "fr"])
    assert german.statistic("f1", AVERAGE) == (55.0, None, 1)
    assert english.statistic("f1", AVERAGE) == (75.0, None, 1)
    text = runs.summary(results.find([tmp_path / "german"]))
    assert "\n  de      f1 90.0" in text and "\n  avg-0s  f1 55.0" in text and "\n  en" not in text
    other = write_scores(tmp_path, by_language(en=1, de=1, fr=1), model="english", seed=1)
    (other / "scores.json").write_text(
        (other / "scores.json").read_text().replace('"language": "en"', '"language": "fr"')
    )
    with pytest.raises(UserError, match=r"'fr': is not the language that .* trained on \(en\)"):
        read(tmp_path)


def test_languages_weigh_alike(tmp_path):
    write_scores(tmp_path, by_language(en=0, ar=30, de=60, hi=90, te=0))
    (result,) = read(tmp_path)
    assert result.statistic("f1", AVERAGE) == (45.0, None, 1)


def test_one_seed_has_no_deviation(tmp_path):
    write_scores(tmp_path, by_language(en=90, de=50))
    (result,) = read(tmp_path)
    assert result.statistic("f1", "en") == (90.0, None, 1)


def test_english_alone_has_no_average(tmp_path):
    write_scores(tmp_path, by_language(en=90))
    (result,) = read(tmp_path)
    assert result.statistic("f1", AVERAGE) is None


def test_runs_are_grouped_by_model_and_task(tmp_path):
    for model in ("b", "a"):
        for task in ("udpos", "panx"):
            for seed in (2, 0, 1):
                write_scores(tmp_path, by_language(en=seed), model=model, task=task, seed=seed)
    found = results.read(results.find([tmp_path / "b", tmp_path / "a", tmp_path]))
    names = [(each.model, each.task, [run.seed for run in each.runs]) for each in found]
    assert names == [(m, t, [0, 1, 2]) for m in ("b", "a") for t in ("panx", "udpos")]


def test_a_seed_twice(tmp_path):
    first = write_scores(tmp_path / "first", by_language(en=1))
    again = write_scores(tmp_path / "again", by_language(en=2))
    with pytest.raises(UserError, match="seed 0") as error:
        read(tmp_path)
    assert str(first) in str(error.value) and str(again) in str(error.value)
    # Of another task it is another seed.
    assert len(results.read([first / "scores.json"])) == 1


def test_seeds_of_different_languages(tmp_path):
    one = write_scores(tmp_path, by_language(en=1, de=2), seed=0)
    two = write_scores(tmp_path, by_language(en=1, fr=2), seed=1)
    with pytest.raises(UserError, match="languages") as error:
        read(tmp_path)
    assert str(one) in str(error.value) and str(two) in str(error.value)


def test_a_sweep_is_no_set_of_seeds(tmp_path):
    write_scores(tmp_path, by_language(en=1), seed=0)
    two = write_scores(tmp_path, by_language(en=1), seed=1, learning_rate=1e-4)
    with pytest.raises(UserError, match=r"0\.0001: is not the learning rate") as error:
        read(tmp_path)
    assert str(two) in str(error.value)


def test_a_language_without_the_metric(tmp_path):
    run = write_scores(tmp_path, by_language(en=1) | {"de": {"accuracy": 3.0}})
    (result,) = read(tmp_path)
    for of in ("de", AVERAGE):
        with pytest.raises(UserError, match="'de': has no f1") as error:
            result.statistic("f1", of)
        assert str(run) in str(error.value)


GOOD = json.dumps(
    {
        "task": "t",
        "model": "m",
        "seed": 0,
        "language": "en",
        "learning_rate": 1,
        "scores": {"en": {}},
    }
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read"),
        ('{"task": ', "cannot be read"),
        (b"\xff", "cannot be read"),
        ("[1]", "no object"),
        (GOOD.replace('"seed": 0', '"seed": "0"'), "is no seed"),
        (GOOD.replace('"model": "m", ', ""), "is no model"),
        (GOOD.replace('{"en": {}}', "{}"), "no language"),
        (GOOD.replace('"en", ', "3, "), "is no language"),
        (GOOD.replace('{"en": {}}', '{"en": 3}'), "percentages as scores of en"),
        (GOOD.replace('{"en": {}}', '{"en": {"f1": "3"}}'), "percentages as scores of en"),
        (GOOD.replace('{"en": {}}', '{"en": {"f1": NaN}}'), "percentages as scores of en"),
    ],
)
def test_a_file_that_is_no_run_is_named(tmp_path, content, words):
    file = tmp_path / "scores.json"
    file.write_text(GOOD, "utf-8")
    assert len(read(tmp_path)) == 1
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=words) as error:
        read(tmp_path)
    assert str(file) in str(error.value)


def test_folders_without_runs_are_named(tmp_path):
    with pytest.raises(UserError, match="no run here is finished"):
        results.find([tmp_path])
    with pytest.raises(UserError, match="is no folder"):
        results.find([tmp_path / "missing"])
