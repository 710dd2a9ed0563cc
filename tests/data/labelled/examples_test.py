"""Examples in memory, and that seqio gives the same."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import seqio

from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.labelled.encoding import feature_lengths
from seqrecipes.data.labelled.examples import read
from seqrecipes.data.labelled.forms import decode
from seqrecipes.data.labelled.registry import get_set
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary
from seqrecipes.errors import UserError
from tests.data.labelled.little import LITTLE, SLOTS, SUMS, TAGS

CASES = [
    ("little_pairs", "de", "test"),
    ("little_tags", "en", "train"),
    ("little_tags", "de", "test"),
    ("little_slots", "it", "test"),
    ("little_parses", "en", "train"),
    ("little_sums", "en", "train"),
    ("little_translations", "de-en", "test"),
]


def lengths(name: str) -> dict[str, int]:
    if LITTLE[name].kind == "generation":
        return {"encoder_input_tokens": 48, "decoder_target_tokens": 64}
    return {"encoder_input_tokens": 24}


@pytest.mark.parametrize(("name", "language", "split"), CASES)
def test_seqio_gives_the_same_examples(folder, vocabulary, name, language, split):
    examples = read(name, language, split, lengths=lengths(name), vocabulary=vocabulary)
    task = seqio.get_mixture_or_task(f"{name}.{language.replace('-', '_')}")
    rows = list(task.get_dataset(lengths(name), split, shuffle=False).as_numpy_iterator())
    count = len(LITTLE[name].records(language, split))
    assert len(rows) == len(examples.inputs) == len(examples.references) == count > 0
    assert task.num_input_examples(split) == count
    sizes = feature_lengths(LITTLE[name].kind, lengths(name))
    for feature, values in examples.features.items():
        assert values.dtype == np.int32 and values.shape == (count, sizes[feature])
        assert [row[feature].tolist() for row in rows] == values.tolist()
    assert [json.loads(row["inputs_pretokenized"]) for row in rows] == examples.inputs
    targets = [task.postprocess_fn("ignored", example=row, is_target=True) for row in rows]
    assert targets == examples.references
    assert task.postprocess_fn("said", example=rows[0], is_target=False) == "said"


def test_without_lengths_seqio_gives_all_of_it(folder, vocabulary):
    (row, *_) = seqio.get_mixture_or_task("little_tags.en").get_dataset(None, "train", False, False)
    ids = vocabulary.tokenizer.encode("Anna sees Rome")
    assert row["encoder_input_tokens"].numpy().tolist() == [0, *ids, 2]
    assert row["word_labels"].numpy().tolist() == [2, 0, 1]


def test_mixtures(registered):
    assert {t.name for t in seqio.MixtureRegistry.get("little_tags").tasks} == {
        "little_tags.en",
        "little_tags.de",
        "little_tags.ja",
    }
    zero_shot = seqio.MixtureRegistry.get("little_tags.zero_shot")
    assert {t.name for t in zero_shot.tasks} == {"little_tags.de", "little_tags.ja"}
    for name in ("little_sums", "little_parses", "little_translations"):
        assert f"{name}.zero_shot" not in seqio.MixtureRegistry.names()


def test_a_language_without_files_is_missed_in_mixtures(folder):
    with pytest.raises(UserError, match=r"no test split of ja: no ja/test.tsv; there is nothing"):
        seqio.MixtureRegistry.get("little_tags").get_dataset(lengths("little_tags"), "test")


def test_parses_are_read_as_pointers(folder, vocabulary):
    examples = read(
        "little_parses", "en", "train", lengths=lengths("little_parses"), vocabulary=vocabulary
    )
    assert examples.inputs == [["Weather", "in", "Paris", "today"]]
    assert examples.references == ["[IN:GET_WEATHER [SL:LOCATION Paris ] [SL:DATE_TIME today ] ]"]
    source = "w0 Weather w1 in w2 Paris w3 today"
    ids = vocabulary.tokenizer.encode(source)
    assert examples.features["encoder_input_tokens"][0, 1 : len(ids) + 1].tolist() == ids


def test_a_parse_survives_a_vocabulary_that_can_spell_it(folder, tmp_path, caplog):
    path = train_vocabulary(
        sample_texts(SampleCorpus()), 2300, tmp_path / "bytes", byte_fallback=True
    )
    vocabulary = Vocabulary(str(path))
    size = {"encoder_input_tokens": 48, "decoder_target_tokens": 128}
    examples = read("little_parses", "en", "train", lengths=size, vocabulary=vocabulary)
    written = decode(vocabulary, examples.features["decoder_target_tokens"][0])
    assert written == "[IN:GET_WEATHER [SL:LOCATION w2 ] [SL:DATE_TIME w3 ] ]"
    assert (
        get_set("little_parses").form.finish(written, examples.inputs[0])
        == (examples.references[0])
    )
    assert "vocabulary lacks" not in caplog.text


def test_alternatives_are_kept_and_the_first_is_trained_on(folder, vocabulary):
    examples = read(
        "little_sums", "en", "train", lengths=lengths("little_sums"), vocabulary=vocabulary
    )
    assert examples.references == ["Rain all day.", ["Sun all day.", "It was sunny."]]
    ids = vocabulary.tokenizer.encode("Sun all day.")
    row = examples.features["decoder_target_tokens"][1]
    assert row[: len(ids) + 2].tolist() == [0, *ids, 2] and (row[len(ids) + 2 :] == 1).all()


def test_unknown_labels_stay_in_the_references(folder, vocabulary):
    size = {"encoder_input_tokens": 24}
    examples = read("little_slots", "it", "test", lengths=size, vocabulary=vocabulary)
    assert examples.references == [{"intent": "allarme", "tags": ["O", "B-time", "O", "B-part"]}]
    assert examples.features["label"].tolist() == [[-1]]
    assert examples.features["word_labels"][0].tolist() == [0, 1, 0, -1] + [-1] * 20
    assert (examples.features["word_positions"][0, :4] > 0).all()


def test_unknown_labels_are_refused(folder, write, vocabulary):
    write("little_tags/ja/test.tsv", "太郎\tB-NAME\n")
    with pytest.raises(UserError, match="'B-NAME': unknown label"):
        read(
            "little_tags", "ja", "test", lengths={"encoder_input_tokens": 9}, vocabulary=vocabulary
        )
    with pytest.raises(UserError, match="'B-NAME': unknown label"):
        seqio.get_mixture_or_task("little_tags.ja").get_dataset(None, "test")


def test_labels_of_a_checkpoint_give_the_indices(folder, vocabulary):
    labels = {"words": ("B-PER", "I-LOC", "B-LOC", "O")}
    size = {"encoder_input_tokens": 24, "word_labels": 3}
    examples = read(
        "little_tags", "en", "train", lengths=size, vocabulary=vocabulary, labels=labels
    )
    assert examples.features["word_labels"].tolist() == [[0, 3, 2], [3, -1, -1], [2, 1, -1]]


def test_examples_are_made_once_and_cannot_be_changed(folder, write, vocabulary, caplog):
    write("little_tags/en/dev.tsv", TAGS + "\n" + "king\tO\n" * 30)
    size = {"encoder_input_tokens": 24}
    with caplog.at_level(logging.WARNING):
        first = read("little_tags", "en", "validation", lengths=size, vocabulary=vocabulary)
        again = read("little_tags", "en", "validation", lengths=size, vocabulary=vocabulary)
    assert first is again
    assert caplog.text.count("little_tags in en, validation: 1 of 4 inputs are too long") == 1
    with pytest.raises(ValueError, match="read-only"):
        first.features["word_labels"][0] = 0
    write("little_tags/en/dev.tsv", TAGS)
    changed = read("little_tags", "en", "validation", lengths=size, vocabulary=vocabulary)
    assert len(changed.inputs) == 3
    shorter = read(
        "little_tags",
        "en",
        "validation",
        lengths={"encoder_input_tokens": 8},
        vocabulary=vocabulary,
    )
    assert shorter.features["encoder_input_tokens"].shape == (3, 8)


def test_what_the_vocabulary_cannot_spell_is_said(folder, write, vocabulary, caplog):
    write("little_sums/dev.jsonl", SUMS.replace("Rain all day.", "Rain ☂"))
    size = lengths("little_sums")
    read("little_sums", "en", "validation", lengths=size, vocabulary=vocabulary)
    said = "little_sums in en, validation: 1 of 2 texts to generate have characters that the vocab"
    assert said in caplog.text


def test_nothing_is_left_out_or_reordered(folder, write, vocabulary):
    """More examples than are encoded at a time."""
    body = "".join(f"{i}\tword {i}\tO O\talarm\n" for i in range(600))
    write("little_slots/train_EN.tsv", SLOTS + body)
    size = {"encoder_input_tokens": 12}
    examples = read("little_slots", "en", "train", lengths=size, vocabulary=vocabulary)
    assert examples.inputs[1:] == [["word", str(i)] for i in range(600)]
    for i in (0, 255, 256, 599):
        ids = vocabulary.tokenizer.encode(f"word {i}")
        assert examples.features["encoder_input_tokens"][i + 1, 1 : len(ids) + 1].tolist() == ids


def test_unknown_sets_and_languages(registered, vocabulary):
    with pytest.raises(UserError, match=r"set = 'tiny': the registered sets are .*little_pairs, "):
        get_set("tiny")
    with pytest.raises(UserError, match="language = 'fr': little_tags has en, de, ja"):
        read("little_tags", "fr", "test", lengths={}, vocabulary=vocabulary)
