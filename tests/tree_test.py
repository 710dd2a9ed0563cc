"""Paths, and ordered rules over them."""

from __future__ import annotations

import pytest

from seqrecipes import tree
from seqrecipes.errors import UserError

PATHS = ["encoder/stack/layers/mlp/bias", "encoder_2/bias", "encoder", "decoder/encoder/bias"]


def test_flatten_and_unflatten_are_inverse() -> None:
    nested = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    leaves = tree.flatten(nested)
    assert leaves == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert tree.unflatten(leaves) == nested


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder", ["encoder/stack/layers/mlp/bias", "encoder"]),
        ("encoder/stack", ["encoder/stack/layers/mlp/bias"]),
        ("encoder/st", []),
        ("stack", []),
        (".*/bias", ["encoder/stack/layers/mlp/bias", "encoder_2/bias", "decoder/encoder/bias"]),
        ("encoder_2|decoder", ["encoder_2/bias", "decoder/encoder/bias"]),
        ("encoder/stack/layers/mlp/bias$", ["encoder/stack/layers/mlp/bias"]),
        (r"encoder\w*", ["encoder/stack/layers/mlp/bias", "encoder_2/bias", "encoder"]),
        (".*", PATHS),
        ("encoder/stack/layers/mlp/bias/x", []),
    ],
)
def test_a_pattern_matches_whole_leading_components(pattern: str, expected: list[str]) -> None:
    assert [
        path for path in PATHS if tree.compile_pattern(pattern, field="x").match(path)
    ] == expected


def test_the_first_matching_rule_decides() -> None:
    rules = [(".*/bias", 0), ("encoder", 1), (".*", 2)]
    values = tree.first_match(rules, [*PATHS, "lm_head"], field="rules")
    assert values == dict(zip([*PATHS, "lm_head"], [0, 0, 1, 0, 2], strict=True))


def test_none_is_a_value_like_any_other() -> None:
    assert tree.first_match([("a", None), (".*", 1)], ["a", "b"], field="x") == {"a": None, "b": 1}


def test_paths_without_a_rule_are_all_named() -> None:
    with pytest.raises(UserError) as caught:
        tree.first_match([("encoder", 1)], PATHS, field="Partitioning.parameter_rules")
    assert caught.value.field == "Partitioning.parameter_rules"
    assert caught.value.value == ["encoder_2/bias", "decoder/encoder/bias"]
    assert "add one" in str(caught.value)


def test_a_malformed_rule_is_the_users_error() -> None:
    with pytest.raises(UserError) as caught:
        tree.first_match([("(encoder", 1), (".*", 2)], PATHS, field="AdamW.decay_rules")
    assert caught.value.field == "AdamW.decay_rules"


def test_select_unites_what_the_patterns_match() -> None:
    chosen = tree.select(["encoder", ".*/mlp"], iter(PATHS), field="Phase.freeze")
    assert chosen == {"encoder", "encoder/stack/layers/mlp/bias"}
    assert tree.select([], PATHS, field="Phase.freeze") == frozenset()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("enc", "decoder, encoder, encoder_2"), ("encoder/", "no parameter"), ("(", "expression")],
)
def test_select_refuses_by_name(pattern: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        tree.select(["encoder", pattern], PATHS, field="Phase.freeze")
    assert (caught.value.field, caught.value.value) == ("Phase.freeze", pattern)
