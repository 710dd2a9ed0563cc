"""Some of the wrong inputs; all of them by `python -m tests.reliability.wrong_inputs`."""

from __future__ import annotations

import pytest

from tests.reliability import wrong_input_cases as cases
from tests.reliability.wrong_inputs import COMMANDS, ROOT, classified, outcomes


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_some_of_each_kind_get_one_line(tmp_path):
    few = cases.few_cases()
    assert len(few) >= 60
    found = outcomes(few, tmp_path)
    assert {str(case): found[case].text for case in few if found[case].kind != "clear"} == {}


def test_there_are_inputs_to_every_command():
    every = cases.all_cases()
    assert len(set(every)) == len(every) >= 1_000
    for command in COMMANDS:
        assert sum(case.command == command for case in every) >= 10, command


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (2, "error: --size = '3': must be at least 16\n", "clear"),
        (2, "something first\nerror: --size = '3': must be at least 16\n", "clear"),
        (1, "error: --size = '3': must be at least 16\n", "unclear"),
        (2, "usage: x\n", "unclear"),
        (2, "error: no\n", "unclear"),
        (2, "error: a = 3: no\nerror: a = 3: no\n", "unclear"),
        (2, "error: a = 3: no\nand more\n", "unclear"),
        (1, "Traceback (most recent call last):\nerror: a = 3: no\n", "traceback"),
        (0, "error: a = 3: no\n", "accepted"),
        (-6, "", "aborted"),
    ],
)
def test_outcomes_are_told_apart(status: int, text: str, kind: str):
    assert classified(status, text).kind == kind
