"""What stands in a terminal, letter by letter."""

from __future__ import annotations

import dataclasses
import re

import pytest

from seqrecipes.inspection.panes import Shown, Token, show
from seqrecipes.inspection.terminal import Terminal, columns, wrap
from seqrecipes.inspection.trace import KEPT, MASKED
from tests.inspection.harness import SPECIALS, WORDS, Predict, Remove, piece, shown

PLAIN = Terminal(80, colour=False, ids=False)
TEXT = "the river rises in spring when snow melts [DOC] and all wait for water"
RANDOM_ID = 4 + WORDS.index("snow")


def lines(example, terminal=PLAIN):
    return terminal.example(example).splitlines()


def test_removed_spans_are_marked_in_the_target_and_leave_a_gap():
    assert lines(shown(Remove(((0, 1), (5, 8), (13, 14))), TEXT)) == [
        "── en, shard 2, record 5: 14 tokens, 5 removed in 3 spans",
        "encoder_input_tokens",
        "<s>‸ river rises in spring‸[DOC] and all wait for‸</s>",
        "",
        "decoder_target_tokens",
        "<s> [the] river rises in spring [when snow melts][DOC] and all wait for",
        "[water]</s>",
    ]


def test_masks_stand_for_spans():
    example = shown(Remove(((1, 3), (12, 14)), "mask"), TEXT)
    assert (
        lines(example)[2] == "<s> the<mask> in spring when snow melts[DOC] and all wait<mask></s>"
    )
    source, target = (pane.tokens for pane in example.rows[0])
    assert [t.group for t in source if t.role == "mask"] == [0, 1]
    assert [t.group for t in target if t.role == "removed"] == [0, 0, 1, 1]
    assert not any(token.gap is not None for token in source)


def test_sentinels_go_with_their_spans_in_either_language():
    example = shown(Remove(((3, 5), (5, 6), (9, 10)), "sentinel"), *split(TEXT), language="de-en")
    assert lines(example)[2:] == [
        "the river rises<sentinel_0></s>",
        "<sentinel_1> snow melts[DOC]<sentinel_2> all wait for water</s>",
        "",
        "decoder_target_tokens",
        "<sentinel_0> [in spring]",
        "<sentinel_1> [when]<sentinel_2> [and]</s>",
    ]
    assert example.heading.startswith(
        "de-en, shard 2, record 5: 5 + 9 tokens, 4 removed in 3 spans"
    )
    assert example.languages == ["de", "en"]
    for pane in example.rows[0]:
        groups = {t.text: t.group for t in pane.tokens if t.role == "sentinel"}
        assert groups == {f"<sentinel_{k}>": k for k in range(3)}


def test_fates_of_what_is_to_be_predicted():
    example = shown(Predict({0: MASKED, 1: MASKED, 4: RANDOM_ID, 12: KEPT}), TEXT)
    assert lines(example) == [
        "── en, shard 2, record 5: 14 tokens, 4 to predict",
        "encoder_input_tokens",
        "<s><mask><mask> rises in [~snow] when snow melts[DOC] and all wait [=for]",
        "water</s>",
        "",
        "masked_targets, marked in the original",
        "<s> [the river] rises in [~spring] when snow melts[DOC] and all wait [=for]",
        "water</s>",
    ]


def test_translations_side_by_side_stand_on_lines_of_their_own():
    example = shown(Predict({0: MASKED, 5: MASKED}), *split(TEXT))
    assert lines(example)[2:4] == [
        "<s><mask> river rises in spring</s>",
        "<mask> snow melts[DOC] and all wait for water</s>",
    ]
    assert example.languages == ["en", "en"]


def test_segments_of_two_inputs():
    example = shown(Predict({0: MASKED, 5: KEPT}, apart=True), *split(TEXT))
    assert [(left.title, right.title.split(",")[0]) for left, right in example.rows] == [
        ("first_input_tokens", "first_masked_targets"),
        ("second_input_tokens", "second_masked_targets"),
    ]
    assert "<s> [=when] snow melts[DOC] and all wait for water</s>" in lines(example)


def test_wide_terminals_have_panes_beside_each_other():
    wide = Terminal(100, colour=False, ids=False)
    assert lines(shown(Remove(((0, 1), (5, 8))), TEXT), wide)[1:] == [
        f"{'encoder_input_tokens':<48} │ decoder_target_tokens",
        f"{'<s>‸ river rises in spring‸[DOC] and all wait':<48} │ "
        "<s> [the] river rises in spring [when snow",
        f"{'for water</s>':<48} │ melts][DOC] and all wait for water</s>",
    ]


def test_right_to_left_text_is_not_put_into_columns():
    def arabic(id_):
        return "\u2581النهر" if id_ == 4 else piece(id_)

    traced = shown(Remove(((0, 1),)), TEXT).trace
    assert "│" not in Terminal(200, False, False).example(show(traced, SPECIALS, arabic))
    assert "│" in Terminal(200, False, False).example(show(traced, SPECIALS, piece))


def test_colours_say_what_brackets_say():
    colour = dataclasses.replace(PLAIN, colour=True)
    removed = colour.example(shown(Remove(((1, 2), (4, 5))), TEXT))
    first, second = re.findall("the \x1b\\[([0-9;]+)mriver.*in \x1b\\[([0-9;]+)mspring", removed)[0]
    assert first != second
    assert re.findall("\x1b\\[([0-9;]+)m‸", removed) == [first, second]
    predicted = colour.example(shown(Predict({0: MASKED, 4: RANDOM_ID, 12: KEPT}), TEXT))
    masked, random, kept = (
        re.findall(f"\x1b\\[([0-9;]+)m{word}\x1b", predicted)
        for word in ("(?:<mask>|the)", "(?:snow|spring)", "for")
    )
    assert len(masked) == len(random) == len(kept) == 2
    assert len({*masked, *random, *kept}) == 3
    for text in (removed, predicted):
        assert "[" not in re.sub("\x1b\\[[0-9;]*m", "", text).replace("[DOC]", "")


def test_ids_stand_behind_their_tokens():
    terminal = dataclasses.replace(PLAIN, ids=True)
    example = shown(Remove(((1, 2),), "mask"), "the river rises")
    assert lines(example, terminal)[2] == "<s>₀ the₄<mask>₉₀ rises₆</s>₂"


def test_spaces_alone_are_seen_where_they_are_noise():
    def blank(id_):
        return "\u2581" if id_ in (4, 5) else piece(id_)

    traced = shown(Remove(((0, 1),)), "the rises river").trace
    assert "<s>[▁] rises </s>" in lines(show(traced, SPECIALS, blank))


def test_control_characters_do_not_reach_the_terminal():
    def nasty(id_):
        return "\x1b[2Jx\r" if id_ == 4 else piece(id_)

    example = show(shown(Remove(((0, 1),)), "the river").trace, SPECIALS, nasty)
    text = PLAIN.example(example)
    assert "\x1b" not in text and "\r" not in text and "\ufffd[2Jx\ufffd" in text


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("aa bb cc", 5, ["aa bb", "cc"]),
        ("aa bb cc", 4, ["aa", "bb", "cc"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("aa  bb", 2, ["aa", "bb"]),
        ("毎年春に", 5, ["毎年", "春に"]),
        ("x 毎年春", 5, ["x 毎", "年春"]),
        ("रेरे", 2, ["रेरे"]),
        ("", 5, []),
    ],
)
def test_wrapping(text, width, expected):
    wrapped = wrap([(c, "") for c in text], width)
    assert ["".join(c for c, _ in line) for line in wrapped] == expected


def test_columns_of_characters():
    assert [columns(c) for c in "aé毎ー\u0301\u200d\u0947"] == [1, 1, 2, 2, 0, 0, 0]


def test_tokens_of_one_role_go_on():
    one = Token("a", 5, "removed", 0)
    assert dataclasses.replace(one, id=6).goes_on(one)
    assert not dataclasses.replace(one, group=1).goes_on(one)
    assert not dataclasses.replace(one, segment=1).goes_on(one)
    assert not Token("<mask>", 90, "mask", 0).goes_on(Token("<mask>", 90, "mask", 0))


def split(text) -> tuple[str, str]:
    words = text.split()
    return " ".join(words[:5]), " ".join(words[5:])


def test_an_example_without_noise():
    example = shown(Remove((), "sentinel"), "river")
    assert isinstance(example, Shown)
    assert lines(example)[2:] == ["river</s>", "", "decoder_target_tokens", "</s>"]
