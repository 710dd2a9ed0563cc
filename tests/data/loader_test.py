"""Batches: the same ones, byte for byte, whoever reads them and wherever reading began."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqrecipes.data import loader as loading
from seqrecipes.data.blocks import Blocks
from seqrecipes.data.loader import Loader
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.stream import training_stream, validation_stream

BATCH = 8
STEPS = 12

# One host of several: prints a checksum of its rows of every batch. Neither JAX nor TensorFlow.
HOST = """
import hashlib, json, sys
import numpy as np
from seqrecipes.data.blocks import Blocks
from seqrecipes.data.loader import Loader
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.stream import training_stream, validation_stream
folder, name, batch, first, end, start, stop = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
blocks, objective = Blocks(folder), OBJECTIVES[name]
loader = Loader(
    training_stream(blocks, objective, alpha=0.3, seed=7),
    validation_stream(blocks, objective, seed=7), batch, np.arange(first, end))
for rows in loader.train(start, stop):
    print(json.dumps([[hashlib.sha256(values[i].tobytes()).hexdigest() for name, values
        in sorted(rows.items())] for i in range(end - first)]))
assert not {"tensorflow", "jax", "seqio"} & set(sys.modules)
"""


def make_loader(blocks: Blocks, name: str, rows: np.ndarray, batch_size: int = BATCH) -> Loader:
    objective = OBJECTIVES[name]
    return Loader(
        training_stream(blocks, objective, alpha=0.3, seed=7),
        validation_stream(blocks, objective, seed=7),
        batch_size,
        rows,
    )


def digests(batch: dict[str, np.ndarray]) -> list[list[str]]:
    """A checksum of every feature of every row."""
    rows = range(len(next(iter(batch.values()))))
    return [
        [hashlib.sha256(values[i].tobytes()).hexdigest() for _, values in sorted(batch.items())]
        for i in rows
    ]


def global_batches(blocks, name, hosts, start, stop):
    """What `hosts` hosts read together: their rows put in order."""
    shares = np.array_split(np.random.default_rng(hosts).permutation(BATCH), hosts)
    readers = [make_loader(blocks, name, rows).train(start, stop) for rows in shares]
    for parts in zip(*readers, strict=True):
        merged = {key: np.zeros((BATCH, *parts[0][key].shape[1:]), np.int32) for key in parts[0]}
        for rows, part in zip(shares, parts, strict=True):
            for key, values in part.items():
                merged[key][rows] = values
        yield merged


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, STEPS), max_size=3),
    hosts=st.lists(st.sampled_from([1, 2, 4]), min_size=4, max_size=4),
    offset=st.sampled_from([0, 10**6]),
    window=st.sampled_from([1, 16, 4096]),
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_hosts_and_restarts_change_no_batch(prepared, name, cuts, hosts, offset, window):
    blocks = prepared(name)
    everyone = np.arange(BATCH)
    whole = list(make_loader(blocks, name, everyone).train(offset, offset + STEPS))
    borders = [0, *sorted(cuts), STEPS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_LOCATE", window)
        pieces = [
            batch
            for count, start, stop in zip(hosts, borders, borders[1:], strict=False)
            for batch in global_batches(blocks, name, count, offset + start, offset + stop)
        ]
    assert [digests(batch) for batch in pieces] == [digests(batch) for batch in whole]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_processes_of_their_own_read_the_same(prepared, hosts):
    """Real processes, stopped after step 5 and started again as another number of them."""
    name = "span_mask"
    blocks = prepared(name)
    expected = [digests(b) for b in make_loader(blocks, name, np.arange(BATCH)).train(0, STEPS)]
    found: list[list] = []
    for count, start, stop in ((hosts, 0, 5), (4 // hosts, 5, STEPS)):
        borders = np.linspace(0, BATCH, count + 1).astype(int).tolist()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", HOST, str(blocks.folder), name]
                + [str(n) for n in (BATCH, first, end, start, stop)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for first, end in itertools.pairwise(borders)
        ]
        outputs = [process.communicate(timeout=600)[0].splitlines() for process in processes]
        assert all(process.returncode == 0 for process in processes)
        for lines in zip(*outputs, strict=True):
            found.append([row for line in lines for row in json.loads(line)])
    assert found == expected


def test_an_epoch_has_every_record_once_whatever_the_hosts(prepared):
    """No overlap and nothing left out: with alpha 1 an epoch is a permutation of the records."""
    blocks = prepared("span_drop")
    stream = training_stream(blocks, OBJECTIVES["span_drop"], alpha=1.0, seed=0)
    seen = np.concatenate([stream.order.locate(np.arange(r, stream.size, 4)) for r in range(4)], 1)
    records = {tuple(column) for column in seen.T.tolist()}
    assert len(records) == stream.size == blocks.counts("train").sum()


def test_validation_fills_its_last_batch(prepared):
    blocks = prepared("mlm")
    batches = list(make_loader(blocks, "mlm", np.arange(BATCH)).validation())
    tokens = np.concatenate([b["encoder_input_tokens"] for b in batches])
    count = int(blocks.counts("validation").sum())
    assert len(tokens) == -(-count // BATCH) * BATCH
    assert (tokens[count:] == 1).all() and (tokens[:count, :3] != 1).all()
