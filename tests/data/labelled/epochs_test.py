"""Epochs: every example once in each, in an order of its own."""

from __future__ import annotations

import numpy as np
import pytest

from seqrecipes.data.labelled.epochs import Epochs
from seqrecipes.errors import UserError


def features(size: int) -> dict[str, np.ndarray]:
    return {"index": np.arange(size, dtype=np.int32), "twice": 2 * np.arange(size)[:, None]}


def stream(epochs: Epochs, steps: int) -> list[int]:
    return [int(i) for step in range(steps) for i in epochs.batch(step)["index"]]


def test_every_example_once_an_epoch_across_batches():
    epochs = Epochs(features(7), batch_size=3, seed=5)
    seen = stream(epochs, 14)
    orders = [seen[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert epochs.steps_per_epoch == 3 and epochs.size == 7


def test_steps_per_epoch_where_batches_fit():
    assert Epochs(features(6), 3, 0).steps_per_epoch == 2
    assert Epochs(features(2), 3, 0).steps_per_epoch == 1


def test_a_batch_larger_than_the_set():
    assert sorted(stream(Epochs(features(2), 6, 0), 1)) == [0, 0, 0, 1, 1, 1]


def test_batches_depend_on_seed_and_step_alone():
    epochs = Epochs(features(50), 8, 3)
    later = epochs.batch(9)["index"].tolist()
    assert Epochs(features(50), 8, 3).batch(9)["index"].tolist() == later
    assert Epochs(features(50), 8, 4).batch(9)["index"].tolist() != later


def test_rows_stay_together():
    batch = Epochs(features(50), 8, 3).batch(2)
    assert batch["twice"][:, 0].tolist() == (2 * batch["index"]).tolist()


def test_processes_make_their_rows():
    whole = Epochs(features(20), 6, 1)
    parts = [Epochs(features(20), 6, 1, rows=np.array(rows)) for rows in ([0, 1, 2], [3, 4, 5])]
    for step in (0, 5):
        together = np.concatenate([part.batch(step)["index"] for part in parts])
        assert together.tolist() == whole.batch(step)["index"].tolist()


def test_train_resumes_anywhere():
    epochs = Epochs(features(20), 6, 1)
    batches = list(epochs.train(3, 6))
    assert [b["index"].tolist() for b in batches] == [
        epochs.batch(step)["index"].tolist() for step in (3, 4, 5)
    ]


def test_impossible_settings():
    with pytest.raises(UserError, match="batch_size = 0"):
        Epochs(features(3), 0, 0)
    with pytest.raises(UserError, match="no example"):
        Epochs(features(0), 3, 0)
