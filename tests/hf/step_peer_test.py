"""The models that the step benchmark holds ours against are the same models."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.step import cases, ours, programs, rounds, torch_peer
from benchmarks.step.cases import Job

WIDTH = 16


def job(name: str) -> Job:
    case = next(case for case in cases.group("tiny") if case.name == name)
    return rounds.jobs(case, [programs.TORCH], {}, warmup=1, steps=2)[0]


# Two rows of each table of positions that transformers never reads, and its one token type.
@pytest.mark.parametrize(
    ("name", "more", "more_trained", "attentions"),
    [
        ("mlm", 3 * WIDTH, 3 * WIDTH, 1),
        ("seq2seq", 4 * WIDTH, 4 * WIDTH, 3),
        ("frozen", 4 * WIDTH, 2 * WIDTH, 3),
    ],
)
def test_peer_has_our_parameters_and_uses_sdpa(
    name: str, more: int, more_trained: int, attentions: int
) -> None:
    theirs, own = torch_peer.program(job(name), compiled=False), ours.program(job(name))

    assert theirs.parameters == own.parameters + more
    assert theirs.trained == own.trained + more_trained
    assert f"in {attentions} of {attentions} attentions" in theirs.remark
    first = theirs.loss(theirs.step())
    assert first == pytest.approx(math.log(64), abs=0.2)
    for _ in range(3):
        last = theirs.step()
    theirs.wait(last)
    assert theirs.loss(last) < first


def test_peer_predicts_the_masked_tokens_alone() -> None:
    labels = torch_peer.inputs(job("mlm"))["labels"]
    batch = cases.synthetic(job("mlm"))

    masked, targets = batch["encoder_input_tokens"] == 63, batch["masked_targets"]
    np.testing.assert_array_equal(masked, labels != -100)
    # Both go from row to row, and ascend in each.
    np.testing.assert_array_equal(labels[masked], targets[targets != cases.PAD])
