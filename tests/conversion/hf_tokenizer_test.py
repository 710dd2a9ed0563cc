"""Exported tokenizers give the ids of SentencePiece, and come back as the same model."""

from __future__ import annotations

import json
import random
import unicodedata
from itertools import chain, permutations

import pytest
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from seqrecipes.conversion.hf.normaliser import spellings, steps
from seqrecipes.conversion.hf.tokenizer import write_tokenizer
from seqrecipes.conversion.hf.vocabulary import read_vocabulary
from seqrecipes.data import pieces
from seqrecipes.data.normalization import normalizer
from seqrecipes.errors import UserError
from tests.conversion.hf_tokenizer_harness import (
    LAYOUT,
    LITERAL,
    ODD,
    ids,
    processor,
    sample_lines,
    tokenizer_of,
    train,
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return sample_lines()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalizer": "nmt_nfkc_joiners", "byte_fallback": True},
        {"byte_fallback": True},
        {"normalization_rule_name": "identity"},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"add_dummy_prefix": False, "byte_fallback": True, "remove_extra_whitespaces": False},
        {"normalization_rule_name": "nfkc_cf", "user_defined_symbols": ["the", "▁river", "-->"]},
        {"split_by_whitespace": False, "control_symbols": ["<x>", "en_XX"]},
    ],
    ids=lambda options: ",".join(options) or "plain",
)
def test_ids_are_those_of_sentencepiece_both_ways(options, lines, tmp_path):
    named = {name: normalizer(value) for name, value in options.items() if name == "normalizer"}
    trained = train(lines, **LAYOUT, **options | named)
    model = pieces.complete(ModelProto.FromString(trained), 5)
    write_tokenizer(model, tmp_path, max_length=512)
    ours, theirs = processor(model), tokenizer_of(tmp_path)
    names = pieces.pieces(model)
    assert [theirs.id_to_token(i) for i in range(theirs.get_vocab_size())] == names
    for text in ODD + lines:
        assert ids(theirs, text) == ours.encode(text), text
    for text in chain.from_iterable(map(spellings, ODD + lines[::5])):
        assert theirs.normalizer.normalize_str(text) == ours.normalize(text), text
    theirs.encode_special_tokens = True
    for text in LITERAL:
        assert ids(theirs, text) == ours.encode(text), text

    assert read_vocabulary(tmp_path).model == model
    (tmp_path / "spm.model").unlink()
    imported = read_vocabulary(tmp_path)
    assert imported.model is not None
    assert imported.pieces == names == pieces.pieces(imported.model)
    again = processor(imported.model)
    for text in ODD + LITERAL + lines:
        assert again.encode(text) == ours.encode(text), text


def test_decoding_is_sentencepieces(vocabulary, lines, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=512)
    ours, theirs = processor(vocabulary), tokenizer_of(tmp_path)
    known = [encoded for encoded in map(ours.encode, ODD + lines) if 3 not in encoded]
    assert len(known) > 200
    for encoded in known:
        assert theirs.decode([0, *encoded, 2]) == ours.decode(encoded)


def test_literal_specials_become_special_unless_told_otherwise(vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=512)
    ours, theirs = processor(vocabulary), tokenizer_of(tmp_path)
    mask, doc = ours.piece_to_id("<mask>"), ours.piece_to_id("[DOC]")
    a, b = ours.encode("river"), ours.encode("snow")
    assert ids(theirs, "river <mask> snow") == [*a, mask, *b]
    assert ids(theirs, "river [DOC] snow<sentinel_4></s>") == [*a, doc, *b, doc + 5, 2]


def test_templates_and_files(vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=77)
    theirs, ours = tokenizer_of(tmp_path), processor(vocabulary)
    a, b = ours.encode("river"), ours.encode("snow melts")
    assert theirs.encode("river").ids == [0, *a, 2]
    assert theirs.encode("river", "snow melts").ids == [0, *a, 2, 2, *b, 2]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("tokenizer.json", "tokenizer_config.json", "spm.model")
    }
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77
    assert config["additional_special_tokens"] == ["[DOC]", *pieces.last_pieces(5)[2:]]


@pytest.fixture(scope="module")
def normaliser(vocabulary) -> tokenizers.normalizers.Sequence:
    return tokenizers.normalizers.Sequence(steps(ModelProto.FromString(vocabulary)))


def test_every_letter_is_composed_as_sentencepiece_composes_it(vocabulary, normaliser):
    """However it is written: whole, in parts, partly composed, its marks in any order."""
    ours = processor(vocabulary)
    differing, tried = [], 0
    for code in range(0x20, 0x30000):
        letter = chr(code)
        found = {letter}
        for form in ("NFD", "NFKD", "NFKC"):
            text = unicodedata.normalize(form, letter)
            found |= {text, *(unicodedata.normalize("NFC", text[:i]) + text[i:] for i in (1, 2))}
            if 2 < len(text) < 5 and not "\uac00" <= letter <= "\ud7a3":
                found |= {text[0] + "".join(marks) for marks in permutations(text[1:])}
        if unicodedata.category(letter)[0] == "C" or (code % 7 and "\uac00" <= letter <= "\ud7a3"):
            continue
        for text in found:
            tried += 1
            if normaliser.normalize_str(f"x{text}y") != ours.normalize(f"x{text}y"):
                differing.append(text)
    # A sign that Unicode discourages, and a script that SentencePiece's map does not know.
    assert set(differing) == {"\u0344", "\U00011935\U00011930"}
    assert tried > 100_000


@pytest.mark.parametrize(
    ("letters", "marks"),
    [
        ("ابتجدسلمنهوي", "ًٌٍَُِّْٰٕٓٔ"),
        ("אבגדהושת", "".join(map(chr, [*range(0x5B0, 0x5BD), 0x5C1, 0x5C2]))),
        ("aeioucnsAEO", "\u0300\u0301\u0302\u0303\u0308\u0323\u0327\u031b\u0328"),
        ("かきはウカハｶﾊ", "\u3099\u309aﾞﾟ"),
        ("ﬁ①½㎞ﷺ", "\u0301\u0323\u20dd"),
    ],
    ids=["Arabic", "Hebrew", "Latin", "kana", "compatible"],
)
def test_marks_in_any_number_and_order_stay_as_sentencepiece_has_them(
    letters, marks, vocabulary, normaliser
):
    ours, choose = processor(vocabulary), random.Random(0)
    for _ in range(300):
        text = "".join(
            choose.choice(letters)
            + "".join(choose.choices(marks, k=choose.choice([0, 1, 1, 2, 3])))
            for _ in range(6)
        )
        assert normaliser.normalize_str(text) == ours.normalize(text), ascii(text)


def test_offsets_are_those_of_the_text(vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=77)
    theirs = tokenizer_of(tmp_path)
    for text in ("the cafe\u0301 ﬁ\u0301 no", "か\u3099くせい", "ab\r\nc"):
        encoded = theirs.encode(text, add_special_tokens=False)
        ends = [end for _, end in encoded.offsets]
        starts = [start for start, _ in encoded.offsets]
        assert starts == sorted(starts) and ends == sorted(ends)
        assert starts[0] == 0 and ends[-1] == len(text)


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"model_type": "bpe"}, "its type is bpe"),
        ({"model_type": "char", "vocab_size": 100}, "its type is char"),
        ({"treat_whitespace_as_suffix": True}, "does not write spaces as ▁ before words"),
        ({"user_defined_symbols": ["①"]}, "'①', is user-defined, and text is normalised to '1'"),
    ],
)
def test_models_that_cannot_be_said_are_refused(options, problem, lines, tmp_path):
    model = pieces.complete(ModelProto.FromString(train(lines, **LAYOUT, **options)), 0)
    with pytest.raises(UserError, match=problem):
        write_tokenizer(model, tmp_path, max_length=512)
    assert list(tmp_path.iterdir()) == []


def test_unused_pieces_and_foreign_layouts_are_refused(vocabulary, lines, tmp_path):
    model = ModelProto.FromString(vocabulary)
    model.pieces[100].type = ModelProto.SentencePiece.UNUSED
    with pytest.raises(UserError, match=r"piece 100, .* is marked as unused"):
        write_tokenizer(model.SerializeToString(), tmp_path, max_length=512)
    with pytest.raises(UserError, match="lacks the layout"):
        write_tokenizer(train(lines), tmp_path, max_length=512)


def test_more_sentinels_than_an_exported_model_has(vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=512)
    imported = read_vocabulary(tmp_path, sentinels=7)
    assert imported.model is not None
    assert len(imported.pieces) == 2000
    assert pieces.pieces(imported.model) == [*imported.pieces, "<sentinel_5>", "<sentinel_6>"]
