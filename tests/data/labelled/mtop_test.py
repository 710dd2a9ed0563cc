"""mTOP with pointers: hand-worked parses, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.labelled.mtop import POINTERS, expand, linearise, point
from seqrecipes.data.labelled.records import Record

WEATHER = ["Weather", "in", "Paris", "today", "please"]


def test_the_input_names_every_word():
    assert point(["Call", "Anna"]) == "w0 Call w1 Anna"


@pytest.mark.parametrize(
    ("tokens", "decoupled", "target"),
    [
        (
            WEATHER,
            "[IN:GET_WEATHER [SL:LOCATION Paris ] [SL:DATE_TIME today ] ]",
            "[IN:GET_WEATHER [SL:LOCATION w2 ] [SL:DATE_TIME w3 ] ]",
        ),
        # No slots, and words right under the intent.
        (WEATHER, "[IN:GET_WEATHER ]", "[IN:GET_WEATHER ]"),
        (["call", "Anna"], "[IN:CALL call [SL:NAME Anna ] ]", "[IN:CALL w0 [SL:NAME w1 ] ]"),
        # A word twice: in their order.
        (["a", "b", "a"], "[IN:X [SL:Y a ] [SL:Z a ] ]", "[IN:X [SL:Y w0 ] [SL:Z w2 ] ]"),
        # A run stays together, though its first word also stands alone before.
        (
            ["the", "man", "in", "the", "moon"],
            "[IN:X [SL:Y the moon ] ]",
            "[IN:X [SL:Y w3 w4 ] ]",
        ),
        # Words that stand apart in the utterance, one by one.
        (
            ["wake", "me", "up", "at", "six", "tomorrow", "at", "ten"],
            "[IN:X [SL:Y wake up ] [SL:T at ten ] ]",
            "[IN:X [SL:Y w0 w2 ] [SL:T w6 w7 ] ]",
        ),
        # An earlier place only when there is no later one.
        (["one", "two"], "[IN:X [SL:Y two ] [SL:Z one ] ]", "[IN:X [SL:Y w1 ] [SL:Z w0 ] ]"),
        # More often than in the utterance, or not in it: as it is.
        (["six"], "[IN:X [SL:Y six ] [SL:Z six ] ]", "[IN:X [SL:Y w0 ] [SL:Z six ] ]"),
        (WEATHER, "[IN:X [SL:Y paris ] ]", "[IN:X [SL:Y paris ] ]"),
        # A nested intent, and white space of any kind.
        (
            ["remind", "me", "to", "call", "Anna"],
            "[IN:REMIND [SL:PERSON me ]  [SL:TODO [IN:CALL [SL:NAME\tAnna ] ] ] ]",
            "[IN:REMIND [SL:PERSON w1 ] [SL:TODO [IN:CALL [SL:NAME w4 ] ] ] ]",
        ),
        # A square bracket that is a word.
        (["[", "x"], "[IN:X [SL:Y [ x ] ]", "[IN:X [SL:Y w0 w1 ] ]"),
    ],
)
def test_worked_parses(tokens, decoupled, target):
    assert linearise(tokens, decoupled) == target
    assert expand(target, tokens) == " ".join(decoupled.split())


@pytest.mark.parametrize(
    ("prediction", "expanded"),
    [
        ("[IN:X w1 ]", "[IN:X b ]"),
        ("[IN:X w1]", "[IN:X b ]"),
        ("[IN:X w2 ]", None),
        ("[IN:X w" + "9" * 5000 + " ]", None),
        ("[IN:X w ]", "[IN:X w ]"),
        ("[IN:w1 ]", "[IN:w1 ]"),
        ("", ""),
    ],
)
def test_predictions(prediction, expanded):
    assert expand(prediction, ["a", "b"]) == expanded


def test_an_impossible_pointer_is_an_empty_answer():
    assert POINTERS.finish("[IN:X w9 ]", ["a"]) == ""
    assert POINTERS.finish("[IN:X w0 ]", ["a"]) == "[IN:X a ]"


def test_records_become_texts():
    record = Record("f:1", words=("Call", "Anna"), targets=("[IN:CALL [SL:NAME Anna ] ]",))
    assert POINTERS.source(record) == "w0 Call w1 Anna"
    assert POINTERS.target(record) == "[IN:CALL [SL:NAME w1 ] ]"


TOKENS = st.lists(st.sampled_from(["a", "b", "c", "w0", "w7", "d.e"]), min_size=1, max_size=10)


@given(TOKENS, st.data())
def test_expansion_gives_the_parse_back(tokens, data):
    chosen = data.draw(st.permutations(range(len(tokens))))
    chosen = chosen[: data.draw(st.integers(0, len(tokens)))]
    pieces = ["[IN:X"]
    for index in chosen:
        pieces.append(tokens[index])
        if data.draw(st.booleans()):
            pieces += ["]", "[SL:Y"]
    decoupled = " ".join([*pieces, "]"])
    target = linearise(tokens, decoupled)
    assert expand(target, tokens) == decoupled
    pointers = [piece for piece in target.split() if piece.startswith("w")]
    assert len(pointers) == len(set(pointers)) == len(chosen)
