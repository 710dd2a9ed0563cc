"""Features of every kind, spelled out from the pieces of the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from seqrecipes.data.labelled.encoding import Encoder, feature_lengths, feature_names
from seqrecipes.data.labelled.forms import PLAIN, decode
from seqrecipes.data.labelled.records import Record
from seqrecipes.errors import UserError

LABELS = {"label": ("no", "yes"), "words": ("O", "B-X")}
BOS, PAD, EOS = 0, 1, 2


def encode(vocabulary, kind, record, lengths=None):
    heads = {"classification": ["label"], "tagging": ["words"], "joint": ["label", "words"]}
    labels = {head: LABELS[head] for head in heads.get(kind, [])}
    sizes = feature_lengths(kind, lengths) if lengths else None
    (encoded,) = Encoder(kind, vocabulary, labels, PLAIN, sizes)([record])
    assert set(encoded.features) == set(feature_names(kind))
    assert all(values.dtype == np.int32 for values in encoded.features.values())
    return encoded, {name: values.tolist() for name, values in encoded.features.items()}


def test_a_text_with_a_label(vocabulary):
    ids = vocabulary.tokenizer.encode("the king of the land")
    record = Record("f:1", texts=("the king of the land",), label="yes")
    encoded, features = encode(vocabulary, "classification", record)
    assert features == {"encoder_input_tokens": [BOS, *ids, EOS], "label": [1]}
    assert (encoded.input, encoded.reference) == ("the king of the land", "yes")
    _, features = encode(
        vocabulary, "classification", record, {"encoder_input_tokens": len(ids) + 4}
    )
    assert features["encoder_input_tokens"] == [BOS, *ids, EOS, PAD, PAD]


def test_a_pair_with_an_unknown_label(vocabulary):
    one, two = vocabulary.tokenizer.encode(["the king", "and the queen"])
    record = Record("f:1", texts=("the king", "and the queen"), label="perhaps")
    encoded, features = encode(vocabulary, "classification", record)
    assert features == {
        "encoder_input_tokens": [BOS, *one, EOS, EOS, *two, EOS],
        "label": [-1],
    }
    assert (encoded.input, encoded.reference) == (["the king", "and the queen"], "perhaps")


def test_words_and_their_labels(vocabulary):
    words = ("Nebuchadnezzar", "\u200b", "the", "of")
    record = Record("f:1", words=words, tags=("B-X", "O", "O", "B-new"), label="no")
    first, _, third, fourth = (vocabulary.tokenizer.encode(word) for word in words)
    assert len(first) > 2 and len(third) == len(fourth) == 1
    lengths = {"encoder_input_tokens": len(first) + 6, "word_labels": 5}
    encoded, features = encode(vocabulary, "joint", record, lengths)
    after = len(first) + 1
    assert features == {
        "encoder_input_tokens": [BOS, *first, *third, *fourth, EOS, PAD, PAD],
        "label": [0],
        "word_positions": [1, 0, after, after + 1, 0],
        "word_labels": [1, -1, 0, -1, -1],
    }
    assert encoded.input == list(words)
    assert encoded.reference == {"intent": "no", "tags": ["B-X", "O", "O", "B-new"]}


def test_words_that_are_cut_off_stay_in_the_reference(vocabulary):
    record = Record("f:1", words=("the",) * 20, tags=("B-X",) * 20)
    encoded, features = encode(vocabulary, "tagging", record, {"encoder_input_tokens": 10})
    assert encoded.input_cut and len(encoded.reference) == 20
    assert features["encoder_input_tokens"][-1] == EOS
    assert features["word_positions"] == [*range(1, 9), 0, 0]
    assert features["word_labels"] == [1] * 8 + [-1] * 2
    encoded, features = encode(
        vocabulary, "tagging", record, {"encoder_input_tokens": 10, "word_labels": 3}
    )
    assert (features["word_positions"], features["word_labels"]) == ([1, 2, 3], [1, 1, 1])


def test_a_text_for_a_text(vocabulary):
    source, target = vocabulary.tokenizer.encode(["in the beginning", "the end"])
    record = Record("f:1", texts=("in the beginning",), targets=("the end",))
    encoded, features = encode(vocabulary, "generation", record)
    assert features == {
        "encoder_input_tokens": [BOS, *source, EOS],
        "decoder_input_tokens": [EOS, BOS, *target],
        "decoder_target_tokens": [BOS, *target, EOS],
    }
    assert (encoded.input, encoded.reference) == ("in the beginning", "the end")
    assert not encoded.unspellable


def test_texts_to_generate_are_cut_but_end(vocabulary):
    text = "the king of the land"
    target = vocabulary.tokenizer.encode(text * 3)
    record = Record("f:1", texts=(text,), targets=(text * 3, "other"), several=True)
    lengths = {"encoder_input_tokens": 32, "decoder_target_tokens": 8}
    encoded, features = encode(vocabulary, "generation", record, lengths)
    assert encoded.target_cut and not encoded.input_cut
    assert encoded.reference == [text * 3, "other"]
    assert features["decoder_target_tokens"] == [BOS, *target[:6], EOS]
    assert features["decoder_input_tokens"] == [EOS, BOS, *target[:6]]


def test_characters_without_pieces_are_noticed(vocabulary):
    record = Record("f:1", texts=("snow",), targets=("☃",))
    encoded, _ = encode(vocabulary, "generation", record)
    assert encoded.unspellable


def test_generated_ids_become_text(vocabulary):
    ids = vocabulary.tokenizer.encode("in the beginning")
    for ending in ([], [EOS], [EOS, PAD, PAD], [EOS, ids[0]]):
        assert decode(vocabulary, np.array([BOS, *ids, *ending])) == "in the beginning"
    assert decode(vocabulary, np.array([BOS, EOS])) == decode(vocabulary, np.array([])) == ""
    unknown = vocabulary.tokenizer.unk_id()
    specials = [vocabulary.mask_id, vocabulary.doc_id, vocabulary.size - 1, unknown]
    assert decode(vocabulary, np.array([*specials, *ids, PAD])) == "in the beginning"


@pytest.mark.parametrize(
    ("kind", "lengths", "message"),
    [
        ("classification", {}, "encoder_input_tokens needs 8 or more"),
        ("classification", {"encoder_input_tokens": 7}, "encoder_input_tokens needs 8 or more"),
        ("generation", {"encoder_input_tokens": 9}, "decoder_input_tokens needs 8 or more"),
        (
            "tagging",
            {"encoder_input_tokens": 9, "decoder_target_tokens": 9},
            r"\['decoder_target_tokens'\]: tagging has encoder_input_tokens, word_positions",
        ),
        ("tagging", {"encoder_input_tokens": 9, "word_labels": 0}, "word_positions needs 1"),
        (
            "tagging",
            {"encoder_input_tokens": 9, "word_labels": 2, "word_positions": 3},
            "as many positions as labels",
        ),
    ],
)
def test_unsuitable_lengths(kind, lengths, message):
    with pytest.raises(UserError, match=message):
        feature_lengths(kind, lengths)
