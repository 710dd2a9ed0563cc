"""Sets in TFDS, written as TFDS writes them; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import pytest
import tensorflow_datasets as tfds

from seqrecipes.data.labelled import layouts
from seqrecipes.data.labelled.records import Record
from seqrecipes.data.labelled.sets import LabelledSet
from seqrecipes.data.seqio import tfds_sets
from seqrecipes.errors import UserError


def build(folder: Path, name: str, **splits: Sequence[dict[str, Any]]) -> None:
    """Writes a prepared dataset of a name that TFDS knows."""
    builder = tfds.builder(name, data_dir=folder)
    builder.data_path.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=100)
    writer.initialize_splits(list(splits))
    for split, examples in splits.items():
        writer.add_examples({split: list(examples)})
    writer.close_all()


@pytest.fixture
def data_dir(tmp_path: Path):
    gin.clear_config()
    gin.bind_parameter("LabelledTfds.data_dir", str(tmp_path))
    yield tmp_path
    gin.clear_config()


def a_set(source: tfds_sets.TfdsSet, kind, *languages: str) -> LabelledSet:
    files = ("{language}/{split}.tsv",)
    return LabelledSet("some", kind, languages, layouts.pair_lines, files, tfds=source)


def without_place(records: Sequence[Record]) -> list[Record]:
    return [record._replace(where="") for record in records]


def languages(**texts: str) -> dict[str, Any]:
    """A premise and a hypothesis in all the languages that XNLI has."""
    names = tfds.builder("xnli").info.features["premise"].languages
    return {
        "premise": {name: texts.get(name, "-") for name in names},
        "hypothesis": {name: texts.get(name, "-") + "?" for name in names},
    }


def test_xnli_takes_english_training_from_multi_nli(data_dir):
    build(
        data_dir,
        "multi_nli:1.1.0",
        train=[{"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment"}],
    )
    build(
        data_dir,
        "xnli:1.1.0",
        validation=[languages(de="Ja", en="Yes") | {"label": "neutral"}],
        test=[languages(de=t, en=t) | {"label": "contradiction"} for t in ("eins", "zwei")],
    )
    build(data_dir, "xtreme_xnli:1.1.0", train=[languages(de="Übersetzt") | {"label": "neutral"}])
    xnli = a_set(tfds_sets.XNLI, "classification", "en", "de")
    assert without_place(xnli.records("en", "train")) == [
        Record("", texts=("It rains.", "It is wet."), label="entailment")
    ]
    assert without_place(xnli.records("de", "train")) == [
        Record("", texts=("Übersetzt", "Übersetzt?"), label="neutral")
    ]
    assert without_place(xnli.records("de", "validation")) == [
        Record("", texts=("Ja", "Ja?"), label="neutral")
    ]
    test = xnli.records("de", "test")
    assert [record.texts[0] for record in test] == ["eins", "zwei"]
    assert test[1].where == "xnli/1.1.0:test[1]"
    assert xnli.labels == {"label": ("entailment",)}
    assert xnli.splits("de") == ("train", "validation", "test")


def test_wikiann(data_dir):
    sentence = {"tokens": ["In", "Köln"], "tags": ["O", "B-LOC"], "langs": ["de"] * 2, "spans": []}
    build(data_dir, "wikiann/de:1.0.0", train=[sentence], validation=[sentence], test=[sentence])
    panx = a_set(tfds_sets.WIKIANN, "tagging", "en", "de")
    for split in ("train", "validation", "test"):
        assert without_place(panx.records("de", split)) == [
            Record("", words=("In", "Köln"), tags=("O", "B-LOC"))
        ]


def test_part_of_speech_tags(data_dir):
    def sentence(word: str) -> dict[str, Any]:
        return {"tokens": [word, "."], "upos": ["NOUN", "PUNCT"]}

    build(
        data_dir,
        "xtreme_pos/xtreme_pos_en:1.0.0",
        train=[sentence("train")],
        dev=[sentence("dev")],
        test=[sentence("test")],
    )
    udpos = a_set(tfds_sets.XTREME_POS, "tagging", "en", "ta")
    for split, word in (("train", "train"), ("validation", "dev"), ("test", "test")):
        (record,) = udpos.records("en", split)
        assert (record.words, record.tags) == ((word, "."), ("NOUN", "PUNCT"))


def test_tamil_is_where_tfds_has_the_treebanks_of_tamil(data_dir):
    from tensorflow_datasets.datasets.xtreme_pos import xtreme_pos_dataset_builder

    treebanks = xtreme_pos_dataset_builder._LANGS
    assert (treebanks["ta"], treebanks["tl"]) == ("Tagalog", "Tamil")
    sentence = {"tokens": ["அவன்"], "upos": ["PRON"]}
    build(data_dir, "xtreme_pos/xtreme_pos_tl:1.0.0", test=[sentence])
    (record,) = a_set(tfds_sets.XTREME_POS, "tagging", "en", "ta").records("ta", "test")
    assert record.words == ("அவன்",)


def test_xsum(data_dir):
    build(data_dir, "xsum:1.1.0", validation=[{"document": "It rained.", "summary": "Rain."}])
    xsum = a_set(tfds_sets.XSUM, "generation", "en")
    assert without_place(xsum.records("en", "validation")) == [
        Record("", texts=("It rained.",), targets=("Rain.",))
    ]
    with pytest.raises(UserError, match=r"some\['en'\] = 'xsum:1.1.0': it has no split 'test'"):
        xsum.records("en", "test")


def test_what_was_not_built_is_said(data_dir):
    with pytest.raises(UserError, match=r"LabelledTfds.data_dir = .*`tfds build wikiann/de:1.0.0 "):
        a_set(tfds_sets.WIKIANN, "tagging", "en", "de").records("de", "test")


def test_a_folder_goes_before_tfds(data_dir):
    gin.bind_parameter("LabelledFiles.folder", {"some": str(data_dir)})
    (data_dir / "en").mkdir()
    (data_dir / "en/train.tsv").write_text("a\tb\tyes\n")
    xnli = a_set(tfds_sets.XNLI, "classification", "en")
    assert xnli.labels == {"label": ("yes",)}
    assert xnli.splits("en") == ("train",)
