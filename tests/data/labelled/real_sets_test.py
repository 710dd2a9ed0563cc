"""Real sets, where they are at hand: every row is read, in every set, language and split.

SEQRECIPES_DATA names their folder, or it lies beside the clone. Its MANIFEST.tsv has a line
`path<TAB>rows<TAB>...` for every file. Where there is none, nothing is collected here.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import gin
import numpy as np
import pytest

import tasks.downstream
from seqrecipes.data.labelled.examples import read
from seqrecipes.data.labelled.sets import check_labels

BESIDE = Path(__file__).parents[3] / "../shared/data"
DATA = Path(os.environ.get("SEQRECIPES_DATA", BESIDE))
SETS = {s.name: s for s in tasks.downstream.SETS}
SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def cases() -> list[tuple[str, str, str, int]]:
    """(set, language, split, rows) of the manifest."""
    found = []
    with (DATA / "MANIFEST.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            name, *middle, last = row["path"].split("/")
            if name not in SETS or "docids" in last:
                continue
            split, *rest = last.split(".")
            sides = [f"en-{rest[0]}", f"{rest[0]}-en"] if name == "ntrex" else middle or ["en"]
            found += [
                (name, side, SPLITS[split], int(row["rows"])) for side in sides if side != "en-en"
            ]
    return found


if (DATA / "MANIFEST.tsv").is_file():
    CASES = cases()

    @pytest.fixture(autouse=True)
    def bound():
        gin.clear_config()
        gin.bind_parameter("LabelledFiles.folder", str(DATA))
        yield
        gin.clear_config()

    @pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
    def test_every_row_is_an_example(name, vocabulary):
        labelled_set = SETS[name]
        expected = {case[1:3]: case[3] for case in CASES if case[0] == name}
        found = {}
        for language in labelled_set.languages:
            for split in labelled_set.splits(language):
                found[language, split] = len(labelled_set.records(language, split))
        assert found == expected

    @pytest.mark.parametrize("name", sorted({case[0] for case in CASES} - {"ntrex"}))
    def test_labels_are_those_of_english_training(name):
        if SETS[name].heads:
            check_labels(SETS[name], SETS[name].languages)

    @pytest.mark.parametrize(
        ("name", "language"), [("udpos", "ja"), ("panx", "te"), ("xsid", "ar")]
    )
    def test_features_of_real_words(name, language, vocabulary):
        lengths = {"encoder_input_tokens": 64}
        examples = read(name, language, "test", lengths=lengths, vocabulary=vocabulary)
        tokens, positions = (
            examples.features[n] for n in ("encoder_input_tokens", "word_positions")
        )
        specials = vocabulary.specials
        assert ((tokens == specials.eos).sum(axis=1) == 1).all()
        for words, row, ids in zip(examples.inputs, positions, tokens, strict=True):
            placed = row[row > 0]
            assert (np.diff(placed) > 0).all() and len(placed) <= len(words)
            for word, position in zip(words, row, strict=False):
                if position:
                    assert ids[position] == vocabulary.tokenizer.encode(word)[0]
