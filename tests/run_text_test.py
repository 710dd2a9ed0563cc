"""The text of a run: a changed vocabulary or text is refused, whatever was made from it before."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import gin
import pytest
import sentencepiece

from seqrecipes import train
from seqrecipes.config.recipe import Phase, Recipe, Stage
from seqrecipes.data import origin
from seqrecipes.errors import UserError
from seqrecipes.run_text import RunText
from tests.commands import harness

LINES = [f"the river {i} rises every {i % 7} springs when snow melts" for i in range(120)]


@pytest.fixture
def folder(tmp_path):
    """Text in two files of one language, bound in gin."""
    import tasks.pretrain  # noqa: F401 -- registers

    text = tmp_path / "text"
    text.mkdir()
    for part in range(2):
        (text / f"{part}.txt").write_text("\n".join(LINES[part::2]))
    gin.clear_config()
    gin.bind_parameter("TextFiles.files", {"en": str(text)})
    gin.bind_parameter("TextFiles.validation_every", 10)
    yield tmp_path
    gin.clear_config()


def recipe(**changes) -> Recipe:
    stage = Stage("mlm", "configs/roberta_12e.py", "mini", "mlm", [Phase(1)], 8)
    plain = Recipe(stages=[stage], corpus="text", sequence_length=32, vocabulary_size=50)
    return dataclasses.replace(plain, **changes)


def run_text(folder, **changes) -> RunText:
    text = RunText(recipe(**changes), folder / "run")
    with gin.unlock_config():
        gin.bind_parameter("pretraining_vocabulary.path", str(text.vocabulary_path))
    return text


def span_corruption():
    (stage,) = recipe().stages
    return [dataclasses.replace(stage, objective="span_corruption")]


@pytest.mark.parametrize(
    "changes, message",
    [
        (lambda: {"vocabulary_size": 51}, r"Recipe\.vocabulary_size = 51: .* trained with 50; re"),
        (lambda: {"alpha": 0.5}, r"Recipe\.smoothing = 0\.5: .* was trained with 0\.3; restore it"),
        (lambda: {"temperature": 2.0}, r"Recipe\.smoothing = 0\.5: .* was trained with 0\.3"),
        (
            lambda: {"normalization": "nfkc"},
            r"Recipe\.normalization = 'nfkc': .* with 'nmt_nfkc_joi",
        ),
        (
            lambda: {"character_coverage": 0.99},
            r"Recipe\.character_coverage = 0\.99: .* with 0\.9995",
        ),
        (lambda: {"byte_fallback": True}, r"Recipe\.byte_fallback = True: .* trained with False"),
        (lambda: {"corpus": "sample"}, r"Recipe\.corpus = 'sample': .* trained with 'text'"),
        (lambda: {"stages": span_corruption()}, r"Recipe\.sentinels = 101: .* trained with 0"),
    ],
)
def test_a_vocabulary_that_was_trained_otherwise_is_refused(folder, changes, message):
    """In a folder that a kill left before it said what it is for, too."""
    run_text(folder).vocabulary().ensure()
    assert {p.name for p in (folder / "run/vocabulary").iterdir()} == {"spm.model", "spm.json"}
    run_text(folder).vocabulary().check()
    with pytest.raises(UserError, match=message):
        run_text(folder, **changes()).vocabulary().check()


@pytest.mark.parametrize("change", ["other content", "another file", "a file less", "a setting"])
def test_a_vocabulary_of_other_text_is_refused(folder, change):
    run_text(folder).vocabulary().ensure()
    path = folder / "text" / "1.txt"
    os.utime(path, ns=(1, 1))
    run_text(folder).vocabulary().check()
    if change == "other content":
        path.write_text(path.read_text().replace("river", "rover"))
    elif change == "another file":
        (path.parent / "2.txt").write_text("more\n")
    elif change == "a file less":
        path.unlink()
    else:
        gin.bind_parameter("TextFiles.validation_every", 11)
    with pytest.raises(UserError, match=r"spm\.model': was trained on other text; restore the"):
        run_text(folder).vocabulary().check()


def test_a_vocabulary_without_a_word_of_where_it_is_from_is_known_by_its_size(folder):
    run_text(folder).vocabulary().ensure()
    said = folder / "run/vocabulary/spm.json"
    said.unlink()
    run_text(folder).vocabulary().check()
    with pytest.raises(
        UserError, match=r"vocabulary_size = 51: .*name the file itself: --gin\.VOC"
    ):
        run_text(folder, vocabulary_size=51).vocabulary().check()
    said.write_text("{cut o")
    with pytest.raises(UserError, match=r"spm\.json': is damaged"):
        run_text(folder).vocabulary().check()


def test_what_a_kill_leaves_before_there_is_a_vocabulary_is_no_obstacle(folder, monkeypatch):
    monkeypatch.setattr("seqrecipes.data.vocabulary.train_vocabulary", lambda *a, **k: None)
    run_text(folder).vocabulary().ensure()
    assert [p.name for p in (folder / "run/vocabulary").iterdir()] == ["spm.json"]
    monkeypatch.undo()
    other = run_text(folder, vocabulary_size=51).vocabulary()
    other.check()
    other.ensure()
    other.check()
    assert json.loads((folder / "run/vocabulary/spm.json").read_text())["vocabulary_size"] == 51


@pytest.mark.parametrize(
    "changes, text, pieces",
    [
        ({}, "ri\u200cver", ["▁", "r", "i", "\u200c", "v", "e", "r"]),
        ({"normalization": "nmt_nfkc"}, "ri\u200cver", ["▁", "r", "i", "▁", "v", "e", "r"]),
        (
            {"byte_fallback": True, "vocabulary_size": 306},
            "\u0416",
            ["▁", "<0xD0>", "<0x96>"],
        ),
        ({"character_coverage": 0.98, "vocabulary_size": 45}, "springs", ["▁", "springs"]),
    ],
)
def test_a_vocabulary_is_trained_as_the_recipe_says(folder, changes, text, pieces):
    run_text(folder, **changes).vocabulary().ensure()
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "run/vocabulary/spm.model")
    )
    joined = model.encode(text, out_type=str)
    assert "".join(joined) == "".join(pieces)
    assert all(piece in "".join(joined) for piece in pieces)
    rare = [piece for piece in "w2468" if model.piece_to_id(piece) == model.unk_id()]
    assert bool(rare) == ("character_coverage" in changes)


def test_another_vocabulary_than_the_copy_is_refused(folder):
    for size in (50, 51):
        RunText(recipe(vocabulary_size=size), folder / f"{size}").vocabulary().ensure()
    one, other = (str(folder / f"{size}/vocabulary/spm.model") for size in (50, 51))
    run_text(folder, vocabulary=one).vocabulary().ensure()
    run_text(folder, vocabulary=one).vocabulary().check()
    with pytest.raises(
        UserError, match=r"Recipe\.vocabulary = .*run/vocabulary/spm\.model is anot"
    ):
        run_text(folder, vocabulary=other).vocabulary().check()


@pytest.mark.parametrize(
    "corpus, objective, tokens",
    [
        ("text", "mlm", 512),
        ("text", "span_drop", 512),
        ("text", "span_corruption", 568),  # 567 and </s>: what corruption shortens to 512
        ("text", "adjacent_mlm", 1024),
        ("parallel", "tlm", 511),  # two of 254, <s> and two </s>
        ("parallel", "translation_mlm", 1024),
    ],
)
def test_an_example_has_as_many_tokens_as_the_text_that_it_is_made_of(
    folder, corpus, objective, tokens
):
    (stage,) = recipe().stages
    stage = dataclasses.replace(stage, objective=objective)
    text = run_text(folder, corpus=corpus, sequence_length=512, stages=[stage])
    assert text.original_tokens(stage) == tokens


def packed(folder):
    """Packed text, and its fingerprint as the run's folder would have it."""
    text = run_text(folder)
    text.vocabulary().ensure()
    blocks = text.blocks(text.recipe.stages[0])
    return blocks, blocks.manifest["corpus_fingerprint"]


def test_text_that_became_another_is_refused_by_name(folder):
    _, fingerprint = packed(folder)
    text = folder / "text"
    shutil.copyfile(text / "0.txt", text / "again")
    (text / "again").replace(text / "0.txt")  # as cp -r does it: another file, later
    run_text(folder).check_unchanged(fingerprint)

    (text / "0.txt").write_text((text / "0.txt").read_text().replace("river", "rover"))
    (text / "1.txt").rename(text / "2.txt")
    gin.bind_parameter("TextFiles.validation_every", 11)
    with pytest.raises(UserError) as error:
        run_text(folder).check_unchanged(fingerprint)
    message = str(error.value)
    for part in (
        "train/en/1.txt is gone",
        "train/en/2.txt is new",
        "train/en/0.txt has other content",
        '"validation_every": 10',
        '"validation_every": 11',
        f"--gin.PREPARED=\"'{folder}/run/data'\"",
    ):
        assert part in message
    assert "\n" not in message.split("  In call")[0].strip()


def test_one_may_go_on_from_what_was_packed(folder):
    blocks, fingerprint = packed(folder)
    shutil.rmtree(folder / "text")
    changes = {"prepared": f"{folder}/run/data", "vocabulary": f"{folder}/run/vocabulary/spm.model"}
    text = run_text(folder, **changes)
    text.check_corpus()
    text.vocabulary().check()
    again = text.blocks(text.recipe.stages[0])
    assert again.folder == blocks.folder
    assert again.manifest["corpus_fingerprint"] == fingerprint


def test_text_of_which_nothing_is_known_any_more_is_refused_all_the_same(folder):
    _, fingerprint = packed(folder)
    shutil.rmtree(folder / "run" / "data")
    (folder / "text" / "1.txt").unlink()
    with pytest.raises(UserError, match="was begun on other text; restore the text, or choose"):
        run_text(folder).check_unchanged(fingerprint)


def arguments(folder, **macros):
    files = {"en": str(folder / "text")}
    text = {"CORPUS": "'text'", "TEXT_FILES": repr(files), "TextFiles.validation_every": 10}
    sizes = {"VOCABULARY_SIZE": 50, "BATCH_SIZE": 8}
    return harness.arguments(folder / "run", **(text | sizes | macros))


def main(*flags) -> int:
    gin.clear_config()
    return train.main(list(flags))


def test_the_command_looks_before_it_trains(folder, capsys, monkeypatch):
    """A changed size, a validation set without a target: neither begins."""
    monkeypatch.chdir(harness.ROOT)
    monkeypatch.setattr("seqrecipes.training.loop.train", None)  # not to be called
    run_text(folder).vocabulary().ensure()
    assert main(*arguments(folder, VOCABULARY_SIZE=51)) == 2
    assert "was trained with 50; restore it" in capsys.readouterr().err
    valid = folder / "valid"
    valid.mkdir()
    (valid / "en.txt").write_text("snow\n")
    shutil.rmtree(folder / "run")
    given = {"TextFiles.validation_files": repr({"en": str(valid)})}
    assert main(*arguments(folder, **given)) == 2
    error = capsys.readouterr().err
    assert "none of its 1 validation example(s) is long enough to have a token to predict" in error
    assert not (folder / "run" / "recipe.json").exists()


def test_the_command_refuses_other_text_than_it_began_with(folder, capsys, monkeypatch):
    monkeypatch.chdir(harness.ROOT)

    class Began(Exception):
        pass

    def begin(*args, **kwargs):
        raise Began

    monkeypatch.setattr("seqrecipes.training.loop.train", begin)
    with pytest.raises(Began):
        main(*arguments(folder))
    said = json.loads((folder / "run" / "recipe.json").read_text())
    (manifest,) = (folder / "run" / "data").glob("*/manifest.json")
    written = json.loads(manifest.read_text())
    assert said["corpus_fingerprint"] == written["corpus_fingerprint"], "that of what was packed"
    for path in (folder / "text").iterdir():
        os.utime(path, ns=(1, 1))
    with pytest.raises(Began):
        main(*arguments(folder))
    path = folder / "text" / "0.txt"
    path.write_text(path.read_text().replace("river", "rover"))
    vocabulary = folder / "run" / "vocabulary"
    (vocabulary / origin.ORIGIN_FILE).unlink()  # else this is what is told
    capsys.readouterr()
    assert main(*arguments(folder)) == 2
    error = capsys.readouterr().err
    assert "was begun on other text (train/en/0.txt has other content); restore the text" in error
    go_on = {"PREPARED": repr(f"{folder}/run/data"), "VOCABULARY": repr(f"{vocabulary}/spm.model")}
    sizes = {"CORPUS": "'text'", "VOCABULARY_SIZE": 50, "BATCH_SIZE": 8}
    with pytest.raises(Began):
        main(*harness.arguments(folder / "run", **(sizes | go_on)))


def test_a_vocabulary_too_large_for_the_text_is_found_before_it_is_made(folder):
    run_text(folder).vocabulary().rehearse()
    with pytest.raises(UserError, match=r"vocabulary size = 5000: too large for this text; the mo"):
        run_text(folder, vocabulary_size=5000).vocabulary().rehearse()
    assert not (folder / "run").exists()
