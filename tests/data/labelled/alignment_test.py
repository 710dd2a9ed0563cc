"""Every word keeps its place, whatever its pieces are and however much is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.labelled.alignment import align, pair, word_pieces, word_tags
from seqrecipes.data.objectives.base import Specials
from seqrecipes.data.vocabulary import Vocabulary

SPECIALS = Specials(0, 1, 2, 3, 98, 99, vocab_size=100)
PIECES = st.lists(st.lists(st.integers(4, 97), max_size=4), max_size=30)
# Marks and spaces that normalisation removes, among letters of several scripts.
WORDS = st.lists(
    st.text(alphabet="\u200b\ufe0f\u00ad\u2060\u3000 aeßé日本नि☃", min_size=1, max_size=6),
    max_size=12,
)


@pytest.mark.parametrize(
    ("length", "tokens", "positions"),
    [
        (None, [0, 7, 8, 9, 2], [1, 0, 3]),
        (5, [0, 7, 8, 9, 2], [1, 0, 3]),
        (4, [0, 7, 8, 2], [1, 0, 0]),
        (3, [0, 7, 2], [1, 0, 0]),
        (2, [0, 2], [0, 0, 0]),
    ],
)
def test_worked_cases(length, tokens, positions):
    aligned = align([[7, 8], [], [9]], length, SPECIALS)
    assert (aligned.tokens, aligned.positions) == (tokens, positions)
    assert aligned.cut == (len(tokens) < 5)


@given(PIECES, st.integers(2, 40))
def test_any_words_at_any_length(words, length):
    tokens, positions, cut = align(words, length, SPECIALS)
    assert len(positions) == len(words) and len(tokens) <= length
    assert (tokens[0], tokens[-1]) == (SPECIALS.bos, SPECIALS.eos)
    everything = [piece for word in words for piece in word]
    assert tokens[1:-1] == everything[: length - 2] and cut == (len(everything) > length - 2)
    begin = 1
    for word, position in zip(words, positions, strict=True):
        assert position == (begin if word and begin <= length - 2 else 0)
        begin += len(word)


@given(WORDS, st.integers(4, 20))
def test_words_that_normalise_to_nothing_and_long_sentences(vocabulary: Vocabulary, words, length):
    tokenizer = vocabulary.tokenizer
    (pieces,) = word_pieces(tokenizer, [words])
    assert pieces == [tokenizer.encode(word) for word in words]
    tokens, positions, _ = align(pieces, length, vocabulary.specials)
    assert len(positions) == len(words)
    for word, position in zip(pieces, positions, strict=True):
        if position:
            assert word and tokens[position] == word[0]
    found = [position for position in positions if position]
    assert found == sorted(set(found))
    assert tokens[-1] == vocabulary.specials.eos


def test_nothing_is_left_of_some_words(vocabulary):
    (pieces,) = word_pieces(vocabulary.tokenizer, [["a", "\u200b", " ", "b"]])
    assert [bool(word) for word in pieces] == [True, False, False, True]
    assert align(pieces, None, vocabulary.specials).positions[1:3] == [0, 0]


def test_words_are_tokenised_as_in_their_sentence(vocabulary):
    sentences = ["In the beginning was the word", "wir essen Brot und trinken", "नमस्ते दुनिया"]
    split = [sentence.split() for sentence in sentences]
    for words, sentence in zip(word_pieces(vocabulary.tokenizer, split), sentences, strict=True):
        joined = list(itertools.chain.from_iterable(words))
        assert joined == vocabulary.tokenizer.encode(sentence)


@pytest.mark.parametrize(
    ("length", "tokens"),
    [
        (None, [0, 5, 6, 7, 2, 2, 8, 2]),
        (8, [0, 5, 6, 7, 2, 2, 8, 2]),
        (7, [0, 5, 6, 2, 2, 8, 2]),
        (6, [0, 5, 2, 2, 8, 2]),
    ],
)
def test_pairs_lose_the_end_of_the_longer_text(length, tokens):
    assert pair([5, 6, 7], [8], length, SPECIALS) == (tokens, len(tokens) < 8)
    swapped, _ = pair([8], [5, 6, 7], length, SPECIALS)
    assert swapped == [0, 8, 2, 2, *tokens[1 : tokens.index(2)], 2]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(6, 30))
def test_pairs_are_cut_no_more_than_needed(first, second, length):
    tokens, cut = pair([7] * first, [8] * second, length, SPECIALS)
    sevens, eights = tokens.count(7), tokens.count(8)
    assert tokens == [0, *[7] * sevens, 2, 2, *[8] * eights, 2]
    room = length - 4
    assert cut == (first + second > room)
    assert sevens + eights == min(first + second, room)
    # The one that was cut is not the shorter of the two by more than a piece.
    if sevens < first:
        assert sevens >= eights - 1
    if eights < second:
        assert eights >= sevens - 1


def test_every_word_gets_a_tag():
    labels = ("O", "B", "I")
    tags = word_tags(np.array([1, 2, 0, 1]), np.array([1, 0, 3, 5]), 3, labels)
    assert tags == ["B", "O", "O"]
    tags = word_tags(np.array([1, 2]), np.array([1, 2]), 4, labels)
    assert tags == ["B", "I", "O", "O"]
