"""The rewritten peers do what they are said to do, so that ours is held against the right thing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.peers import denoising, sentinels

BOS, PAD, EOS, MASK = 0, 1, 2, 998
TOKENS = np.arange(1000, 1510)
SEQUENCE = np.concatenate(([BOS], TOKENS, [EOS]))
IMPLEMENTATIONS = ["numpy", *(["torch"] if importlib.util.find_spec("torch") else [])]


def make(implementation: str, replace_length: int) -> Any:
    settings = denoising.Settings(MASK, PAD, replace_length)
    if implementation == "numpy":
        return denoising.NumpyDenoising(settings)
    return denoising.TorchDenoising(settings)


def sequence(implementation: str, tokens: np.ndarray) -> Any:
    if implementation == "numpy":
        return tokens
    import torch

    return torch.from_numpy(tokens)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("replace_length", [0, 1])
def test_sampler_reaches_the_published_coverage(implementation: str, replace_length: int) -> None:
    # Spans overlap, so 14.26% of 510 tokens go in place of 15% (sd of a sequence 0.54%); 24.8
    # lengths are drawn of which 1.3 are zero.
    sampler = make(implementation, replace_length)
    source = [np.asarray(sampler.corrupt(sequence(implementation, SEQUENCE))) for _ in range(1500)]
    kept = np.array([np.isin(TOKENS, s).sum() for s in source])
    masks = np.array([(s == MASK).sum() for s in source])

    assert abs(1 - kept.mean() / 510 - 0.1426) < 5 * 0.0054 / np.sqrt(1500)
    assert (510 - kept).max() <= 77  # the budget, ceil(0.15 * 510)
    if replace_length == 0:
        assert abs(masks.mean() - 1.3) < 0.15
    else:
        # Starts that no other span swallowed, and the insertions.
        assert 23 < masks.mean() < 24.8
    for s in source:
        assert s[0] == BOS and s[-1] == EOS
        ordinary = s[(s >= 1000)]
        assert (np.diff(ordinary) > 0).all()
        assert s.size == ordinary.size + (s == MASK).sum() + 2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_batches_are_padded_and_decoder_inputs_turned(implementation: str) -> None:
    short, long = SEQUENCE[[0, *range(1, 41), -1]], SEQUENCE
    batch = make(implementation, 1).batch([sequence(implementation, s) for s in (short, long)])
    target = np.asarray(batch["target"])
    np.testing.assert_array_equal(target[0, :42], short)
    assert (target[0, 42:] == PAD).all()
    np.testing.assert_array_equal(target[1], long)
    np.testing.assert_array_equal(
        np.asarray(batch["decoder_input"])[:, :3], [[EOS, BOS, 1000], [EOS, BOS, 1000]]
    )
    assert np.asarray(batch["source"]).shape[1] < 512


def test_noise_of_sentinels_has_the_counts_and_shape_of_t5() -> None:
    first_spans = set()
    for seed in range(50):
        noise = sentinels.noise_mask(tf.constant(512), tf.constant([[seed, 1], [seed, 2]])).numpy()
        edges = np.flatnonzero(np.diff(noise.astype(int)))
        assert noise.sum() == 77
        assert edges.size == 2 * 26 - 1  # 26 spans that never touch, the last one at the end
        assert not noise[0] and noise[-1]
        first_spans.add(edges[0])
    assert len(first_spans) > 10


def test_sentinels_run_down_and_stand_for_spans() -> None:
    tokens = tf.constant([10, 11, 12, 13, 14, 15, 16, 17])
    noise = tf.constant([False, False, True, True, False, False, True, False])
    np.testing.assert_array_equal(
        sentinels.with_sentinels(tokens, noise, 100), [10, 11, 99, 14, 15, 98, 17]
    )
    np.testing.assert_array_equal(
        sentinels.with_sentinels(tokens, ~noise, 100), [99, 12, 13, 98, 16, 97]
    )


def test_seqio_task_makes_batches_that_rebuild_the_text(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(5, 900, (4, 567)).astype(np.int32)
    batches = sentinels.task_batches(
        rows, sentinels.own_functions(1000), 1000, 4, tmp_path / "tokens.tfrecord"
    )
    batch = next(batches)
    assert batch["encoder_input_tokens"].shape == (4, 512)
    originals = {tuple(row) for row in rows.tolist()}
    for source, target in zip(
        batch["encoder_input_tokens"].tolist(),
        batch["decoder_target_tokens"].tolist(),
        strict=True,
    ):
        text, spans = [], iter(_parts(target))
        for part in _parts(source):
            text += [*part, *next(spans)]
        assert tuple(text) in originals


def _parts(ids: list[int]) -> list[list[int]]:
    """What lies between sentinels (ids from 900 on) before </s>."""
    parts: list[list[int]] = [[]]
    for token in ids[: ids.index(EOS)]:
        if token >= 900:
            parts.append([])
        else:
            parts[-1].append(token)
    # Targets begin with a sentinel, inputs end with one.
    return [part for part in parts if part]
