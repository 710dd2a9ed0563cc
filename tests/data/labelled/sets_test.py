"""Sets: where their files lie, their labels, and what is said of labels from elsewhere."""

from __future__ import annotations

import logging
from dataclasses import replace

import gin
import pytest

from seqrecipes.data.labelled.sets import check_labels
from seqrecipes.errors import UserError
from tests.data.labelled.little import LITTLE, PAIRS

PAIR_SET, TAG_SET, SLOT_SET = (
    LITTLE[name] for name in ("little_pairs", "little_tags", "little_slots")
)


def test_labels_are_those_of_english_training(folder, write):
    assert PAIR_SET.labels == {"label": ("maybe", "no", "yes")}
    assert TAG_SET.labels == {"words": ("O", "B-LOC", "B-PER", "I-LOC")}
    assert SLOT_SET.labels == {"label": ("alarm",), "words": ("O", "B-time")}
    assert LITTLE["little_sums"].labels == {}


def test_files_that_change_are_read_again(folder, write):
    assert len(PAIR_SET.records("en", "train")) == 3
    write("little_pairs/en/train.tsv", PAIRS + "One.\tTwo.\tother\n")
    assert len(PAIR_SET.records("en", "train")) == 4
    assert PAIR_SET.labels == {"label": ("maybe", "no", "other", "yes")}


def test_splits_are_those_with_files(folder):
    assert PAIR_SET.splits("en") == ("train", "validation")
    assert PAIR_SET.splits("de") == ("test",)
    assert TAG_SET.splits("ja") == ()
    assert LITTLE["little_translations"].splits("en-de") == ("test",)


@pytest.mark.parametrize("name", ["validation", "dev", "eval"])
def test_validation_files_go_by_several_names(folder, write, name):
    write(f"little_tags/en/{name}.tsv.gz", "a\tO\n")
    assert len(TAG_SET.records("en", "validation")) == 1


def test_two_candidates_are_refused(folder, write):
    write("little_slots/en/train.tsv", "0\ta\tO\tx\n")
    with pytest.raises(UserError, match=r"en/train.tsv and .*train_EN.tsv': both could be meant"):
        SLOT_SET.records("en", "train")


def test_both_directions_of_a_translation(folder):
    forth, back = (LITTLE["little_translations"].records(p, "test") for p in ("en-de", "de-en"))
    assert [(r.texts[0], r.targets[0]) for r in forth] == [
        ("It rains.", "Es regnet."),
        ("Good night.", "Gute Nacht."),
    ]
    assert [(r.targets[0], r.texts[0]) for r in back] == [(r.texts[0], r.targets[0]) for r in forth]


@pytest.mark.parametrize(
    ("language", "split", "message"),
    [
        ("fr", "test", "language = 'fr': little_pairs has en, de"),
        ("en", "dev", "split = 'dev': choose one of train, validation, test"),
        (
            "en",
            "test",
            r"\['little_pairs'\] = .*no test split of en: no en/test.tsv; there is train, val",
        ),
        ("de", "train", "no train split of de: no de/train.tsv; there is test"),
        ("de", "validation", "no de/dev.tsv or de/validation.tsv or de/eval.tsv"),
    ],
)
def test_what_is_not_there(folder, language, split, message):
    with pytest.raises(UserError, match=message):
        PAIR_SET.records(language, split)


def test_no_training_split_means_no_labels(folder):
    (folder / "little_pairs/en/train.tsv").unlink()
    with pytest.raises(UserError, match="no train split of en"):
        check_labels(PAIR_SET, ["de"])


def test_empty_splits(folder, write):
    write("little_pairs/de/test.tsv", "premise\thypothesis\tlabel\n")
    with pytest.raises(UserError, match=r"little_pairs in de, test = '.*test.tsv': there is not a"):
        PAIR_SET.records("de", "test")


def test_folders(folder):
    gin.bind_parameter("LabelledFiles.folder", {"little_tags": str(folder / "little_pairs")})
    with pytest.raises(UserError, match=r"folder\['little_pairs'\] = None: set it to the folder "):
        PAIR_SET.splits("en")
    assert TAG_SET.splits("en") == ("train", "validation")
    gin.bind_parameter("LabelledFiles.folder", str(folder / "nowhere"))
    with pytest.raises(UserError, match=r"nowhere/little_pairs': no such folder"):
        PAIR_SET.splits("en")


def test_labels_in_other_languages_must_be_known(folder, write):
    check_labels(PAIR_SET, ["en", "de"])
    path = write("little_pairs/de/test.tsv", "a\tb\tmaybe\nc\td\tvielleicht\n")
    with pytest.raises(UserError) as caught:
        check_labels(PAIR_SET, ["en", "de"])
    assert str(caught.value) == (
        f"little_pairs in de, test = 'vielleicht': unknown label in {path}:2; English training has "
        "maybe, no, yes. Rename it there, or count such labels as wrong: on_unknown_label='wrong' "
        "for little_pairs in tasks/downstream.py."
    )
    check_labels(PAIR_SET, ["en"])


def test_tags_in_other_languages_must_be_known(folder, write):
    write("little_tags/ja/test.tsv", "東京\tB-LOC\n\n太郎\tB-NAME\n")
    with pytest.raises(UserError, match=r"little_tags in ja, test = 'B-NAME': .*test.tsv:3;"):
        check_labels(TAG_SET, ["en", "de", "ja"])


def test_labels_must_be_those_of_a_checkpoint(folder):
    labels = {"label": ("no", "yes")}
    with pytest.raises(UserError, match=r"little_pairs in en, validation = 'maybe': .* no, yes\."):
        check_labels(PAIR_SET, ["en"], labels)
    check_labels(PAIR_SET, ["en"], labels, splits=["test"])


def test_unknown_labels_that_count_as_wrong_are_said(folder, caplog):
    with caplog.at_level(logging.WARNING):
        check_labels(SLOT_SET, ["en", "it"])
    assert "little_slots in it, test: 2 label(s) are of no kind seen in training" in caplog.text
    assert "B-part, allarme" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "A-b"}, "LabelledSet.name = 'A-b'"),
        ({"kind": "ranking"}, "LabelledSet.kind = 'ranking': choose one of classification, tag"),
        ({"on_unknown_label": "skip"}, "on_unknown_label = 'skip': choose one of raise, wrong"),
        ({"languages": ("de",)}, r"languages = \('de',\): little_pairs needs en"),
        ({"languages": ()}, r"languages = \(\)"),
    ],
)
def test_impossible_sets(changes, message):
    with pytest.raises(UserError, match=message):
        replace(PAIR_SET, **changes)
