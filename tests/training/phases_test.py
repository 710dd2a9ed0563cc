"""Phases laid end to end, and which parameters train since when."""

from __future__ import annotations

import re
from typing import Any

import pytest

from seqrecipes.errors import UserError
from seqrecipes.training.phases import Phase, span_of, spans

PATHS = ["encoder/a", "encoder/b", "decoder/a", "token_embedding/embedding", "lm_head/embedding"]
FREEZE = ("encoder", "token_embedding")


def test_spans_follow_each_other_and_number_cohorts() -> None:
    first, second, third, fourth = spans(
        [Phase(5, FREEZE), Phase(3), Phase(2, ["encoder/a"]), Phase(4)], iter(PATHS)
    )
    assert [(s.index, s.start, s.stop) for s in (first, second, third, fourth)] == [
        (0, 0, 5),
        (1, 5, 8),
        (2, 8, 10),
        (3, 10, 14),
    ]
    assert first.frozen == {"encoder/a", "encoder/b", "token_embedding/embedding"}
    assert first.cohorts == {"decoder/a": 0, "lm_head/embedding": 0}
    assert second.frozen == frozenset()
    late = {"encoder/b": 1, "token_embedding/embedding": 1}
    assert second.cohorts == first.cohorts | late | {"encoder/a": 1}
    assert third.frozen == {"encoder/a"}
    assert third.cohorts == first.cohorts | late
    # What was frozen again comes back as a cohort of its own.
    assert fourth.cohorts == third.cohorts | {"encoder/a": 3}


def test_every_step_belongs_to_one_phase() -> None:
    placed = spans([Phase(2, FREEZE), Phase(1)], PATHS)
    assert [span_of(placed, step).index for step in range(5)] == [0, 0, 1, 1, 1]


def test_an_encoder_has_dropout_unless_it_is_frozen_and_asked_for() -> None:
    placed = spans(
        [Phase(1, FREEZE), Phase(1, FREEZE, frozen_dropout=False), Phase(1), Phase(1, [FREEZE[1]])],
        PATHS,
    )
    assert [span.encoder_dropout for span in placed] == [True, False, True, True]


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ((), "3 of its parameters train (encoder/a)"),
        (("decoder",), "3 of its parameters train (encoder/a)"),
        (("encoder",), "1 of its parameters train (token_embedding/embedding)"),
        (("encoder/b", "token_embedding"), "1 of its parameters train (encoder/a)"),
    ],
)
def test_an_encoder_in_training_keeps_its_dropout(freeze: tuple[str, ...], trained: str) -> None:
    with pytest.raises(UserError, match=re.escape(trained)) as caught:
        spans([Phase(1), Phase(1, freeze, frozen_dropout=False)], PATHS)
    assert (caught.value.field, caught.value.value) == ("Phase.frozen_dropout", False)
    assert "add ['encoder', 'token_embedding'] to Phase.freeze" in str(caught.value)


@pytest.mark.parametrize(
    ("phases", "field", "words"),
    [
        ([], "Stage.phases", "at least one"),
        ([Phase(1, ["encodr"])], "Phase.freeze", "decoder, encoder, lm_head, token_embedding"),
        ([Phase(1), Phase(1, ["enc"])], "Phase.freeze", "matches no parameter"),
        ([Phase(1, ["encoder", "("])], "Phase.freeze", "regular expression"),
        ([Phase(1, [".*"])], "Phase.freeze", "nothing to train"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases: list[Phase], field: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        spans(phases, PATHS)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"steps": 0}, "Phase.steps"), ({"steps": 3, "freeze": "encoder"}, "Phase.freeze")],
)
def test_a_phase_is_checked_when_it_is_made(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Phase(**arguments)
    assert caught.value.field == field
