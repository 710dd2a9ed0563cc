"""The check of values against declarations: types, ranges, choices, and what errors say."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from seqrecipes.config.check import Range, check, check_fields
from seqrecipes.config.finetuning import Finetuning, Search
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase, Recipe, Stage
from seqrecipes.config.training import Checkpointing, Loss, Partitioning
from seqrecipes.errors import UserError
from tests.commands.harness import ROOT

GOOD = [
    (3, int),
    (np.int64(3), int),
    (3, float),
    (0.5, float),
    (np.float32(0.5), float),
    (True, bool),
    ("x", str),
    (None, int | None),
    (3, int | None),
    ("a", Literal["a", "b"]),
    (["a"], Sequence[str]),
    (("a",), Sequence[str]),
    ([], Sequence[str]),
    ([["a", 1.0]], tuple[tuple[str, float], ...]),
    (["f1", "max"], tuple[str, Literal["max", "min"]]),
    ({"en": "x", "de": ["y"]}, Mapping[str, str | Sequence[str]]),
    (0, Annotated[int, Range(0)]),
    (-1, Annotated[int, Range(1, also=-1)]),
    (0.0, Annotated[float, Range(0, below=1)]),
    (AdamW(), AdamW),
    (b"x", Any),
]


@pytest.mark.parametrize(("value", "declared"), GOOD, ids=str)
def test_what_fits_is_accepted(value: Any, declared: Any) -> None:
    check(value, declared, "x")


BAD = [
    (8.0, int, "x", "must be a whole number: write 8"),
    (8.5, int, "x", "must be a whole number"),
    (True, int, "x", "must be a whole number"),
    ("8", int, "x", "must be a whole number, without quotes"),
    ([8], int, "x", "must be a whole number, not a list"),
    (None, int, "x", "must be a whole number"),
    (True, float, "x", "must be a number"),
    ("1e-3", float, "x", "must be a number, without quotes"),
    (math.nan, float, "x", "must be a finite number"),
    (math.inf, float, "x", "must be a finite number"),
    (1, bool, "x", "must be True or False"),
    ("False", bool, "x", "must be True or False, without quotes"),
    (3, str, "x", "must be a text: '3'"),
    (["a"], str, "x", "must be a text, not a list"),
    ("c", Literal["a", "b"], "x", "choose one of a, b"),
    (True, Literal[1, 2], "x", "choose one of 1, 2"),
    ("encoder", Sequence[str], "x", "write a list: ['encoder']"),
    ({"a": 1}, Sequence[str], "x", "write a list"),
    (["a", 1], Sequence[str], "x[1]", "must be a text: '1'"),
    ([0, 1.0], Sequence[int], "x[1]", "must be a whole number: write 1"),
    ("max", tuple[str, str], "x", "write a list"),
    (["f1"], tuple[str, str], "x", "must be a list of 2 values"),
    (["f1", "most"], tuple[str, Literal["max", "min"]], "x[1]", "choose one of max, min"),
    ("en=x", Mapping[str, str], "x", "must be a dictionary"),
    ({"en": 3}, Mapping[str, str], "x['en']", "must be a text"),
    ({3: "x"}, Mapping[str, str], "a key of x", "must be a text"),
    (3.0, str | Sequence[str], "x", "must be a text: '3.0', or write a list: [3.0]"),
    ("x", int | None, "x", "must be a whole number, without quotes, or None"),
    ({"en": [3]}, str | Mapping[str, str | Sequence[str]], "x['en'][0]", "must be a text: '3'"),
    (0, Annotated[int, Range(1)], "x", "must be at least 1"),
    (0, Annotated[int, Range(1, also=-1)], "x", "must be at least 1, or -1"),
    (1.0, Annotated[float, Range(0, below=1)], "x", "must lie in [0, 1)"),
    (0, Annotated[float, Range(above=0)], "x", "must be above 0"),
    (2, Annotated[float, Range(most=1)], "x", "must be at most 1"),
    ([1, 0], Sequence[Annotated[int, Range(1)]], "x[1]", "must be at least 1"),
    ("AdamW", AdamW, "x", "must be a AdamW: @AdamW()"),
    (AdamW, AdamW, "x", "must be a AdamW: @AdamW()"),
    ("f1", Annotated[tuple[str, str], "write a pair"], "x", "write a pair"),
]


@pytest.mark.parametrize(("value", "declared", "field", "remedy"), BAD, ids=str)
def test_what_does_not_fit_is_named(value: Any, declared: Any, field: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        check(value, declared, "x")
    assert caught.value.field == field
    assert remedy in caught.value.remedy


PHASE = Phase(1)
STAGE = Stage("a", "m", "full", "mlm", [PHASE], 8)
RECIPE = Recipe([STAGE], "sample")
TUNING = Finetuning("udpos", "f1", {}, AdamW(), 8, 1)
CONFIGURED = [AdamW(), Loss(), Partitioning(), Checkpointing(), Search(), PHASE, STAGE, RECIPE]


def fields() -> list[Any]:
    return [
        pytest.param(instance, field.name, id=f"{type(instance).__name__}.{field.name}")
        for instance in [*CONFIGURED, TUNING]
        for field in dataclasses.fields(instance)
    ]


@pytest.mark.parametrize(("instance", "name"), fields())
def test_every_field_is_checked_when_a_value_is_set(instance: Any, name: str) -> None:
    """No field takes a value of a foreign type, an infinite one or one below all ranges."""
    kind = type(instance).__name__
    for value in (object(), -math.inf, math.nan):
        with pytest.raises(UserError) as caught:
            dataclasses.replace(instance, **{name: value})
        assert caught.value.field.startswith(f"{kind}.{name}")


@pytest.mark.parametrize("seed", [2**32, -1])
def test_seeds_that_jax_would_wrap_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match=r"Recipe\.seed"):
        dataclasses.replace(RECIPE, seed=seed)
    with pytest.raises(UserError, match=r"Finetuning\.seeds\[0\]"):
        dataclasses.replace(TUNING, seeds=[seed])
    # The second stage would have the seed 2 ** 32.
    two = [STAGE, dataclasses.replace(STAGE, name="b")]
    assert dataclasses.replace(RECIPE, seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(UserError, match=r"must be at most 4,294,967,294"):
        dataclasses.replace(RECIPE, stages=two, seed=2**32 - 1)


def test_a_dataclass_without_a_name_of_its_own_in_errors() -> None:
    with pytest.raises(UserError) as caught:
        check_fields(_Plain(3), "")  # type: ignore[arg-type]
    assert caught.value.field == "text"


@dataclasses.dataclass(frozen=True)
class _Plain:
    text: str


def test_configuration_is_read_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from seqrecipes import configuration\n"
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'tensorflow', 'seqio', 'sentencepiece'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
