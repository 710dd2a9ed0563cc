"""Metrics against cases worked by hand, and against slow counting of spans."""

from __future__ import annotations

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrecipes.downstream import metrics
from seqrecipes.errors import UserError


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def test_accuracy_is_a_percentage():
    assert metrics.accuracy(["a", "b", "b"], ["a", "b", "a"]) == {
        "accuracy": pytest.approx(200 / 3)
    }
    # As many labels as examples, of which scikit-learn would warn if it took them for regression.
    names = [str(number) for number in range(40)]
    assert metrics.accuracy(names, names) == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("target", "prediction", "f1"),
    [
        ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 100.0),
        ("B-PER I-PER O B-LOC", "B-PER O     O B-LOC", 50.0),  # a border of one of two
        ("B-PER I-PER O B-LOC", "B-LOC I-LOC O B-LOC", 50.0),  # a type of one of two
        ("B-PER I-PER O B-LOC", "I-PER I-PER O B-LOC", 100.0),  # I- opens one too
        ("B-PER I-PER O O    ", "B-PER B-PER O O    ", 0.0),  # one cut in two
        ("B-PER B-PER O O    ", "B-PER I-PER O O    ", 0.0),  # two in one
        ("B-PER O     O B-LOC", "B-PER O     O O    ", 200 / 3),  # P 1, R 1/2
        ("B-PER O     O O    ", "B-PER B-LOC O B-LOC", 50.0),  # P 1/3, R 1
        ("B-PER I-PER O B-LOC", "O     O     O O    ", 0.0),
        ("O     O     O O    ", "O     O     O O    ", 0.0),
    ],
)
def test_entities_by_hand(target, prediction, f1):
    found = metrics.entity_f1([target.split()], [prediction.split()])
    assert found == {"f1": pytest.approx(f1)}


def test_entities_are_counted_over_all_examples():
    """Not averaged by example or by type: 3 right of 4 predicted and 5 true, P 3/4, R 3/5."""
    targets = [["B-A", "I-A"], ["B-A", "B-A", "B-B", "B-B"]]
    predictions = [["B-A", "O"], ["B-A", "B-A", "B-B", "O"]]
    expected = 100 * 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)
    assert metrics.entity_f1(targets, predictions) == {"f1": pytest.approx(expected)}
    # No entity crosses from one example into the next.
    assert metrics.entity_f1([["B-A"], ["I-A"]], [["B-A"], ["O"]])["f1"] == pytest.approx(200 / 3)


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """(type, begin, end): all words of one entity after its first are I- of its type."""
    found = set()
    for begin in range(len(tags)):
        kind = tags[begin][2:]
        opens = tags[begin] != "O" and (
            tags[begin][0] == "B" or begin == 0 or tags[begin - 1][2:] != kind
        )
        if opens:
            end = begin + 1
            while end < len(tags) and tags[end] == f"I-{kind}":
                end += 1
            found.add((kind, begin, end))
    return found


TAG = st.sampled_from(["O", "O", "B-X", "I-X", "B-Y", "I-Y"])
EXAMPLES = st.lists(st.lists(st.tuples(TAG, TAG), max_size=7), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(EXAMPLES)
def test_entities_against_slow_counting(examples):
    targets = [[target for target, _ in words] for words in examples]
    predictions = [[prediction for _, prediction in words] for words in examples]
    pairs = [(spans(a), spans(b)) for a, b in zip(targets, predictions, strict=True)]
    right = sum(len(a & b) for a, b in pairs)
    both = sum(len(a) + len(b) for a, b in pairs)
    expected = 100 * 2 * right / both if both else 0.0
    assert metrics.entity_f1(targets, predictions)["f1"] == pytest.approx(expected)
    # Tuples and lists are the same to us, though not to seqeval.
    assert metrics.entity_f1([*map(tuple, targets)], predictions)["f1"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("targets", "predictions", "f1", "accuracy"),
    [
        (["DET NOUN VERB"], ["DET NOUN VERB"], 100.0, 100.0),
        # NOUN NOUN is one chunk: missing half of it misses all of it. P 0/2, R 0/1.
        (["NOUN NOUN"], ["NOUN VERB"], 0.0, 50.0),
        (["NOUN NOUN VERB"], ["NOUN NOUN NOUN"], 0.0, 200 / 3),
        # S is a chunk of one word: two SYM are two, of which one is right. P 1/2, R 1/2.
        (["SYM SYM"], ["SYM NOUN"], 50.0, 50.0),
        # Both conjunctions are CONJ.
        (["CCONJ VERB"], ["SCONJ VERB"], 100.0, 50.0),
        # Chunks do not cross sentences: four of them, two right.
        (["NOUN", "NOUN"], ["NOUN", "VERB"], 50.0, 50.0),
        # A word that was cut off is no chunk: P 1/1, R 1/2.
        (["NOUN VERB"], ["NOUN O"], 200 / 3, 50.0),
        (["NOUN VERB"], ["O O"], 0.0, 0.0),
        # An X that ends a sentence is no chunk.
        (["X"], ["X"], 0.0, 100.0),
        (["NOUN X"], ["NOUN VERB"], 200 / 3, 50.0),
        (["NOUN X VERB"], ["NOUN X VERB"], 100.0, 100.0),
        # One that begins a sentence lasts from where the chunk before it began, here from the first
        # or from the second word: of three chunks and of four the last NOUN alone is in both.
        (["NOUN NOUN", "X NOUN"], ["NOUN VERB", "X NOUN"], 200 / 7, 75.0),
    ],
)
def test_tags_as_xtreme_counts_them(targets, predictions, f1, accuracy):
    found = metrics.tag_f1([t.split() for t in targets], [p.split() for p in predictions])
    assert found == {"f1": pytest.approx(f1), "accuracy": pytest.approx(accuracy)}


def test_other_warnings_about_tags_are_kept():
    with pytest.warns(UserWarning, match="seems not to be NE tag"):
        metrics.entity_f1([["NOUN"]], [["NOUN"]])


def test_joint_scores_both_parts():
    targets = [
        {"intent": "flight", "tags": ["O", "B-city", "I-city"]},
        {"intent": "fare", "tags": ["B-day", "O"]},
    ]
    predictions = [
        {"intent": "flight", "tags": ["O", "B-city", "O"]},
        {"intent": "flight", "tags": ["B-day", "O"]},
    ]
    assert metrics.joint(targets, predictions) == {"intent_accuracy": 50.0, "slot_f1": 50.0}
    assert metrics.joint(targets, targets) == {"intent_accuracy": 100.0, "slot_f1": 100.0}
    predictions[1]["tags"] = ["B-day"]
    with pytest.raises(ValueError, match="example 1 "):
        metrics.joint(targets, predictions)


GOLD = "[IN:GET_WEATHER [SL:LOCATION w3 w4 ] ]"


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        (GOLD, True),
        ("[in:get_weather[sl:locationw3w4]]", True),
        ("\n[IN:GET_ WEATHER\t[SL:LOCATION w3\u00a0\u3000w4 ]] ", True),
        ("[IN:GET_WEATHER [SL:LOCATION w3 w5 ] ]", False),
        ("[IN:GET_WEATHER [SL:DATE_TIME w3 w4 ] ]", False),
        ("[IN:GET_WEATHER [SL:LOCATION w4 w3 ] ]", False),
        ("[IN:GET_WEATHER [SL:LOCATION w3 w4 ]", False),
        ("", False),
        (None, False),
    ],
)
def test_exact_match_sees_neither_space_nor_case(prediction, right):
    assert metrics.sciem([GOLD], [prediction]) == {"sciem": 100.0 * right}
    assert metrics.sciem([GOLD, GOLD], [prediction, GOLD]) == {"sciem": 50.0 + 50.0 * right}


@given(st.text(min_size=1), st.lists(st.integers(0, 50)), st.sampled_from(" \t\n\u2003"))
def test_exact_match_with_space_anywhere(text, places, space):
    spaced = list(text)
    for place in places:
        spaced.insert(min(place, len(spaced)), space)
    assert metrics.sciem([text], ["".join(spaced)]) == {"sciem": 100.0}
    assert metrics.sciem([text], ["".join(spaced) + "#"]) == {"sciem": 0.0}


def test_rouge_by_hand():
    # Six words against five. Words: the, cat, on, the = 4. Pairs: "the cat" and "on the" = 2.
    # Longest common subsequence: the cat on the = 4.
    target, prediction = "The cat sat on the mat.", "the cat lies on the"
    expected = {"rouge1": 2 * 4 / 11, "rouge2": 2 * 2 / 9, "rougeL": 2 * 4 / 11}
    found = metrics.rouge([target], [prediction])
    assert found == {name: pytest.approx(100 * value) for name, value in expected.items()}
    half = metrics.rouge([target, target], [prediction, ""])
    assert half == {name: pytest.approx(50 * value) for name, value in expected.items()}
    assert metrics.rouge(["Überlänge"], ["berl nge"])["rouge1"] == 100.0, (
        "other letters are borders"
    )
    assert metrics.rouge(["runners jumping"], ["runner jumped"])["rouge2"] == 100.0


def test_rouge_takes_the_best_reference_for_each_score():
    # Against "b a" two words and no pair; against "a b c d e" one pair and P 1, R 2/5.
    found = metrics.rouge([["b a", "a b c d e"]], ["a b"])
    assert found["rouge1"] == pytest.approx(100.0)
    assert found["rouge2"] == pytest.approx(100 * 2 * 1 / 5)
    assert found["rougeL"] == pytest.approx(100 * 2 * 2 / 7)  # as 1 of 2 and 2 gives 1/2


def test_bleu_by_hand():
    # "a b c d f" for "a b c d e": 4/5, 3/4, 2/3, 1/2, no brevity penalty.
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert metrics.bleu(["a b c d e"], ["a b c d f"]) == {"bleu": pytest.approx(expected)}
    # Of the corpus, not of sentences: counts add up first.
    both = 100 * (9 / 10 * 7 / 8 * 5 / 6 * 3 / 4) ** 0.25
    found = metrics.bleu(["a b c d e", "a b c d e"], ["a b c d f", "a b c d e"])
    assert found == {"bleu": pytest.approx(both)}


def test_examples_may_have_different_numbers_of_references():
    targets = [["u v w x", "a b c d e"], "f g h i"]
    predictions = ["a b c d e", "f g h i"]
    assert metrics.bleu(targets, predictions) == {"bleu": pytest.approx(100.0)}
    assert metrics.chrf(targets, predictions) == {"chrf": pytest.approx(100.0)}
    # The second example has no empty reference, to which four words would be nearer than to nine:
    # all is right, and too short by 14 words to 9.
    short = metrics.bleu([["u v w x", "a b c d e"], "f g h i j k l m n"], predictions)
    assert short == {"bleu": pytest.approx(100 * math.exp(1 - 14 / 9))}


def test_chrf_by_hand():
    # Without smoothing, characters alone: orders 1 to 3 of "abc" against "abd" have 2/3, 1/2, 0/1.
    # P = R at each, so F2 is their mean over the orders that exist.
    assert metrics.chrf(["abc"], ["abd"])["chrf"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_signatures_name_what_was_done():
    found = metrics.signatures([["a", "b"], ["c", "d"]])
    assert {"nrefs:2", "case:mixed", "tok:13a"} <= set(found["bleu"].split("|"))
    assert {"nrefs:2", "nc:6", "nw:0"} <= set(found["chrf"].split("|"))
    assert all("version:" in signature for signature in found.values())


EVERY = ["accuracy", "entity_f1", "tag_f1", "joint", "sciem", "rouge", "bleu", "chrf"]


@pytest.mark.parametrize("name", EVERY)
def test_nothing_to_score_is_an_error(name):
    with pytest.raises(UserError, match="nothing to score"):
        getattr(metrics, name)([], [])


@pytest.mark.parametrize("name", EVERY)
def test_lists_of_different_lengths_name_the_first_without_a_partner(name):
    with pytest.raises(ValueError, match="3 targets and 2 predictions: example 2 "):
        getattr(metrics, name)(["a", "b", "c"], ["a", "b"])


@pytest.mark.parametrize("name", ["entity_f1", "tag_f1"])
def test_a_word_without_a_tag_names_its_example(name):
    with pytest.raises(ValueError, match=r"example 1 .* 2 words and 1 predicted tags"):
        getattr(metrics, name)([["O"], ["O", "O"]], [["O"], ["O"]])


@pytest.mark.parametrize("name", ["rouge", "bleu", "chrf"])
def test_no_reference_at_all_is_an_error(name):
    with pytest.raises(UserError, match="example 1"):
        getattr(metrics, name)(["a", []], ["a", "b"])
