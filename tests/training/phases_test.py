"""Phases laid end to end, and which parameters train since when."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from seqrecipes.config.recipe import Phase
from seqrecipes.errors import UserError
from seqrecipes.training.phases import span_of, spans

PATHS = ["encoder/a", "encoder/b", "decoder/a", "token_embedding/embedding", "lm_head/embedding"]
LEAVES = {path: np.zeros(3) for path in PATHS}
# With a stack of six layers.
DEEP = LEAVES | {
    "encoder/embedding/norm": np.zeros(3),
    "encoder/stack/layers/a": np.zeros((6, 2)),
    "encoder/stack/final_norm/a": np.zeros(2),
    "decoder/stack/layers/a": np.zeros((6, 2)),
}
BELOW = ("token_embedding", "encoder/embedding")
FREEZE = ("encoder", "token_embedding")


def test_spans_follow_each_other_and_number_cohorts() -> None:
    first, second, third, fourth = spans(
        [Phase(5, FREEZE), Phase(3), Phase(2, ["encoder/a"]), Phase(4)], LEAVES
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
    placed = spans([Phase(2, FREEZE), Phase(1)], LEAVES)
    assert [span_of(placed, step).index for step in range(5)] == [0, 0, 1, 1, 1]


def test_an_encoder_has_dropout_unless_it_is_frozen_and_asked_for() -> None:
    placed = spans(
        [Phase(1, FREEZE), Phase(1, FREEZE, frozen_dropout=False), Phase(1), Phase(1, [FREEZE[1]])],
        LEAVES,
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
        spans([Phase(1), Phase(1, freeze, frozen_dropout=False)], LEAVES)
    assert (caught.value.field, caught.value.value) == ("Phase.frozen_dropout", False)
    assert "add ['encoder', 'token_embedding'] to Phase.freeze" in str(caught.value)


def test_layers_of_the_encoder_are_named_by_slices_where_some_of_them_are_frozen() -> None:
    first, second, third, fourth = spans(
        [
            Phase(1, FREEZE),
            Phase(1, BELOW, frozen_encoder_layers=5),
            Phase(1, BELOW, frozen_encoder_layers=2),
            Phase(1),
        ],
        DEEP,
    )
    low, middle, high = (f"encoder/stack/layers/a[{rows}]" for rows in ("0:2", "2:5", "5:6"))
    below = {"token_embedding/embedding", "encoder/embedding/norm"}
    others = {"encoder/a", "encoder/b", "encoder/stack/final_norm/a"}
    decoder = dict.fromkeys(["decoder/a", "decoder/stack/layers/a", "lm_head/embedding"], 0)
    assert [span.frozen for span in (first, second, third, fourth)] == [
        below | others | {low, middle, high},
        below | {low, middle},
        below | {low},
        frozenset(),
    ]
    assert first.cohorts == decoder
    assert second.cohorts == decoder | dict.fromkeys([*others, high], 1)
    assert third.cohorts == second.cohorts | {middle: 2}
    assert fourth.cohorts == third.cohorts | dict.fromkeys([*below, low], 3)
    assert [span.frozen_encoder_layers for span in (first, second, third, fourth)] == [0, 5, 2, 0]
    parts = [span.frozen_part("encoder/stack/layers/a") for span in (first, second, third, fourth)]
    assert parts == ["0", "1 [0:5]", "2 [0:2]", ""]
    assert first.frozen_part("encoder/a") == "0"


def test_what_trains_may_be_named_instead_of_what_is_frozen() -> None:
    (first, second) = spans([Phase(5, train=["decoder", "encoder/b"]), Phase(1)], LEAVES)
    assert first.cohorts == {"decoder/a": 0, "encoder/b": 0}
    assert first.frozen == LEAVES.keys() - first.cohorts.keys()
    assert {path for path, cohort in second.cohorts.items() if cohort == 1} == first.frozen
    # As if the others had been named.
    (other,) = spans([Phase(5, ["encoder/a", "token_embedding", "lm_head"])], LEAVES)
    assert (first.cohorts, first.frozen) == (other.cohorts, other.frozen)


def test_without_frozen_layers_every_name_is_a_path() -> None:
    for span in spans([Phase(1, FREEZE), Phase(1)], DEEP):
        assert span.cohorts.keys() | span.frozen == DEEP.keys()


@pytest.mark.parametrize(
    ("freeze", "layers", "words"),
    [
        (BELOW, 6, "the encoder has 6 layers; to freeze all, use Phase.freeze"),
        (FREEZE, 3, "names layers of the encoder too (encoder/stack/layers/a)"),
        ([*BELOW, ".*/layers"], 3, "names layers of the encoder too (encoder/stack/layers/a)"),
        ((), 3, "add ['token_embedding', 'encoder/embedding'] to Phase.freeze"),
        (["token_embedding"], 3, "add ['encoder/embedding'] to Phase.freeze"),
        (["encoder/embedding"], 3, "add ['token_embedding'] to Phase.freeze"),
    ],
)
def test_frozen_layers_that_cannot_be_are_refused(freeze: Any, layers: int, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        spans([Phase(1), Phase(1, freeze, frozen_encoder_layers=layers)], DEEP)
    assert (caught.value.field, caught.value.value) == ("Phase.frozen_encoder_layers", layers)


def test_an_encoder_as_at_inference_is_frozen_with_all_its_layers() -> None:
    phase = Phase(1, BELOW, frozen_dropout=False, frozen_encoder_layers=5)
    with pytest.raises(UserError, match=re.escape("layers/a[5:6]")) as caught:
        spans(
            [phase],
            {path: x for path, x in DEEP.items() if "stack/layers" in path or "emb" in path},
        )
    assert caught.value.field == "Phase.frozen_dropout"


def test_a_phase_says_what_it_freezes() -> None:
    assert Phase(1, FREEZE).frozen == list(FREEZE)
    assert Phase(1, BELOW, frozen_encoder_layers=5).frozen == [
        *BELOW,
        "encoder/stack/layers[0:5]",
    ]
    assert Phase(1, train=["decoder", "head"]).frozen == ["all but decoder, head"]


@pytest.mark.parametrize(
    ("phases", "field", "words"),
    [
        ([], "Stage.phases", "at least one"),
        ([Phase(1, ["encodr"])], "Phase.freeze", "decoder, encoder, lm_head, token_embedding"),
        ([Phase(1), Phase(1, ["enc"])], "Phase.freeze", "matches no parameter"),
        ([Phase(1, ["encoder", "("])], "Phase.freeze", "regular expression"),
        ([Phase(1, [".*"])], "Phase.freeze", "nothing to train"),
        ([Phase(1, train=["decodr"])], "Phase.train", "matches no parameter"),
    ],
)
def test_phases_that_cannot_be_are_refused(phases: list[Phase], field: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        spans(phases, LEAVES)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"steps": 0}, "Phase.steps"),
        ({"steps": 1, "micro_batches": -1}, "Phase.micro_batches"),
        ({"steps": 3, "freeze": "encoder"}, "Phase.freeze"),
        ({"steps": 3, "freeze": ["encoder"], "train": ["decoder"]}, "Phase.train"),
        ({"steps": 3, "frozen_encoder_layers": -1}, "Phase.frozen_encoder_layers"),
    ],
)
def test_a_phase_is_checked_when_it_is_made(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Phase(**arguments)
    assert caught.value.field == field
