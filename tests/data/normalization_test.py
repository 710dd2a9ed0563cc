"""Normalisation: which characters stay inside of words."""

from __future__ import annotations

import pytest
import sentencepiece

from seqrecipes.data.normalization import NORMALIZATIONS, kept_joiners, normalizer
from seqrecipes.data.vocabulary import Vocabulary, train_vocabulary
from seqrecipes.errors import UserError

WORDS = {
    "Telugu": ["పార్క్\u200cలో", "ఇంటర్నెట్\u200cను", "క్లాస్\u200cమేట్స్"],
    "Persian": ["می\u200cروم", "نمی\u200cخواهم", "کتاب\u200cها"],
    "Hindi": ["राज\u200cनीति", "श्रीमान्\u200cजी", "शक्\u200dति"],
    "Marathi": ["दुसऱ्या", "तर्\u200dहेने", "सुर्\u200dयाला"],
    "emoji": ["👩\u200d👧"],
}


def lines():
    every = [word for words in WORDS.values() for word in words]
    for i in range(200):
        yield " ".join(every[(i * j) % len(every)] for j in range(1, 9)) + f" ① {i} <x>"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return Vocabulary(str(train_vocabulary(lines(), 120, tmp_path_factory.mktemp("v"))))


@pytest.mark.parametrize("language", WORDS)
def test_words_with_joiners_come_back_as_one_word(vocabulary, language):
    for word in WORDS[language]:
        ids = vocabulary.tokenizer.encode(f"{word} 1")
        assert vocabulary.tokenizer.decode(ids) == f"{word} 1"
        assert [p[:1] for p in vocabulary.tokenizer.id_to_piece(ids)].count("▁") == 2


def test_joiners_have_pieces_where_the_text_has_none(tmp_path):
    """Rare characters have none; these are needed by whatever is read later."""
    path = train_vocabulary((f"the river {i} rises" for i in range(100)), 30, tmp_path)
    tokenizer = Vocabulary(str(path)).tokenizer
    assert tokenizer.encode("e\u200cr\u200de", out_type=str)[1:] == [
        "e",
        "\u200c",
        "r",
        "\u200d",
        "e",
    ]
    assert 3 not in tokenizer.encode("e\u200cr\u200de")


def test_the_default_is_sentencepieces_rule_but_for_one_character():
    theirs = sentencepiece.SentencePieceNormalizer(
        rule_name="nmt_nfkc",
        add_dummy_prefix=True,
        escape_whitespaces=True,
        remove_extra_whitespaces=True,
    )
    ours = normalizer("nmt_nfkc_joiners")
    points = [chr(i) for i in range(1, 0x30000) if not 0xD800 <= i < 0xE000 and i != 0x200C]
    for i in range(0, len(points), 512):
        text = "x".join(points[i : i + 512])
        assert ours.normalize(text) == theirs.normalize(text)
    for mark in "\u0301\u0308\u0327\u3099\u09be":
        text = "".join(f"{letter}{mark}" for letter in "aeiouAEOUncかきगেো")
        assert ours.normalize(text) == theirs.normalize(text) != f"▁{text}"
    assert (ours.normalize("a\u200cb"), theirs.normalize("a\u200cb")) == ("▁a\u200cb", "▁a▁b")


@pytest.mark.parametrize(
    "name, text, joiners",
    [
        ("nmt_nfkc_joiners", "▁Ab\u200cc\u200dd▁1▁f", "\u200c\u200d"),
        ("nmt_nfkc", "▁Ab▁c\u200dd▁1▁f", "\u200d"),
        ("nmt_nfkc_cf", "▁ab▁c\u200dd▁1▁f", "\u200d"),
        ("nfkc", "▁Ab\u200cc\u200dd▁1\u200bf", "\u200c\u200d"),
        ("nfkc_cf", "▁ab\u200cc\u200dd▁1\u200bf", "\u200c\u200d"),
        ("identity", "▁Ab\u200cc\u200dd▁①\u200bf", "\u200c\u200d"),
    ],
)
def test_what_each_rule_does(name, text, joiners):
    assert normalizer(name).normalize("Ab\u200cc\u200dd ①\u200bf") == text
    assert kept_joiners(name) == joiners


def test_a_vocabulary_keeps_the_rule_that_it_was_trained_with(tmp_path):
    for name in NORMALIZATIONS:
        path = train_vocabulary(lines(), 130, tmp_path / name, normalization=name)
        tokenizer = Vocabulary(str(path)).tokenizer
        for text in ("Ab\u200cc\u200dd ①\u200bf", " می\u200cروم  نمی"):
            assert tokenizer.normalize(text) == normalizer(name).normalize(text)
        proto = tokenizer.serialized_model_proto()
        assert name.encode() in proto and str(tmp_path).encode() not in proto


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"normalization = 'nfd': choose one of nmt_nfkc_joiners, "):
        train_vocabulary(lines(), 100, tmp_path, normalization="nfd")
    for coverage in (0.0, 0.9, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"character coverage = .*: must lie in \[0\.98, 1\]"):
            train_vocabulary(lines(), 100, tmp_path, character_coverage=coverage)
    assert not list(tmp_path.iterdir())
