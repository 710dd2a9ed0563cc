"""What the tests of objectives share: special ids, scripted draws, recognisable texts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from seqrecipes.data.objectives import OBJECTIVES, Mlm, Objective, SpanDenoise
from seqrecipes.data.objectives.base import Specials
from seqrecipes.data.objectives.corruption import SpanCorruption, TranslationSpanCorruption

BOS, PAD, EOS, UNK = range(4)
# Ten sentinels from 90 on; ordinary ids are 4 to 87.
SMALL = Specials(BOS, PAD, EOS, UNK, mask=88, doc=89, vocab_size=100, sentinels=10)
LARGE = Specials(BOS, PAD, EOS, UNK, mask=20_000, doc=20_001, vocab_size=21_002, sentinels=1000)

# Every objective with every option that changes more than a share.
VARIANTS: list[Objective] = [
    *OBJECTIVES.values(),
    Mlm(rate=0.5),
    SpanDenoise("mask", rate=0.5),
    SpanDenoise("mask", zero_spans="insert"),
    SpanDenoise("drop", sampler="bart_compat"),
    SpanDenoise("mask", sampler="bart_compat"),
    SpanDenoise("mask", sampler="bart_compat", zero_spans="insert"),
    *(
        SpanCorruption(roll=roll, final_sentinel=final, bos=bos, rate=rate)
        for roll, final, bos, rate in itertools.product(
            (False, True), (False, True), (False, True), (0.15, 0.5)
        )
    ),
    SpanCorruption(rate=0.9, mean_span=10.0),
    *(
        TranslationSpanCorruption(mask_side=side, roll=roll, final_sentinel=final, rate=rate)
        for side, roll, final, rate in itertools.product(
            ("both", "one"), (False, True), (False, True), (0.15, 0.5)
        )
    ),
]


class Scripted:
    """Hands out the given uniforms, to make a literal example happen."""

    def __init__(self, *draws: Any):
        self.draws = list(draws)

    def random(self, size: int | tuple[int, ...] | None = None) -> Any:
        draw = self.draws.pop(0)
        shape = () if size is None else (size,) if isinstance(size, int) else size
        assert np.shape(draw) == shape
        return draw if size is None else np.array(draw)


def check_documented(
    objective: Objective,
    segments: dict[str, list[int]],
    draws: list[Any],
    expected: dict[str, list[int]],
) -> None:
    """The scripted example is `expected`, and the class shows it so in its docstring."""
    script = Scripted(*draws)
    arrays = (np.array(ids, np.int32) for ids in segments.values())
    example = objective(*arrays, uniform=script, specials=SMALL)
    assert {name: ids.tolist() for name, ids in example.items()} == expected
    assert not script.draws
    shown = [line.split(maxsplit=1) for line in (type(objective).__doc__ or "").splitlines()]
    for name, ids in (segments | expected).items():
        assert any(line[0] == name and line[1].startswith(str(ids)) for line in shown if line)


def text(runs: list[int], special: int = LARGE.doc, first: int = 100) -> np.ndarray:
    """Distinct ordinary ids in runs of the given sizes, separated by a special id; read-only."""
    ids, number = [], itertools.count(first)
    for i, size in enumerate(runs):
        ids += [special] * (i > 0) + [next(number) for _ in range(size)]
    array = np.array(ids, np.int32)
    array.flags.writeable = False
    return array


def segments_of(objective: Objective, runs: list[int], size: int) -> tuple[np.ndarray, ...]:
    """A block, or two segments of different ids, of at most `size` tokens each."""
    if objective.reads == "blocks":
        return (text(runs)[:size],)
    return text(runs)[:size], text(runs[::-1], first=10_000)[: size // 2]


def removed_spans(payload: np.ndarray, source: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of the maximal stretches of a payload of distinct ids that are gone."""
    kept = set(source.tolist())
    spans, start = [], 0
    for is_gone, stretch in itertools.groupby(int(x) not in kept for x in payload):
        length = len(list(stretch))
        if is_gone:
            spans.append((start, length))
        start += length
    return spans


# Lengths of the runs between special tokens: mostly short, sometimes many.
run_lists = st.one_of(
    st.lists(st.integers(0, 12), max_size=30), st.lists(st.integers(0, 60), max_size=8)
)
