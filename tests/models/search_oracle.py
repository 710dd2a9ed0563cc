"""Beam search once more, slowly: one source, one hypothesis, one whole text at a time.

Written from what transformers documents of `generate`. A model is a function from the tokens after
the start token to the log-probabilities of the next one; from one text to the next nothing is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from seqrecipes.models import ModelConfig
from tests.models import oracle

EOS = 2
Text = tuple[int, ...]
LogProbabilities = Callable[[Text], np.ndarray]


def beam_search(
    model: LogProbabilities,
    *,
    beams: int,
    longest: int,
    penalty: float = 1.0,
    early: bool | str = False,
) -> list[tuple[float, Text]]:
    """The ended hypotheses (score, tokens), the best first.

    Args:
      model: gives log-probabilities [V].
      beams: how many hypotheses.
      longest: the most tokens.
      penalty: exponent of the length that sums are divided by.
      early: True, False or 'never'.
    """
    running: list[tuple[float, Text]] = [(0.0, ())]
    ended: list[tuple[float, Text]] = []
    for length in range(1, longest + 1):
        candidates = sorted(
            (total + value, (*text, token))
            for total, text in running
            for token, value in enumerate(model(text))
            if value > -np.inf
        )[::-1][: 2 * beams]
        running = []
        for rank, (total, text) in enumerate(candidates):
            if text[-1] != EOS and length < longest:
                running.append((total, text))
            elif rank < beams:
                ended.append((total / length**penalty, text))
        running = running[:beams]
        ended = sorted(ended)[::-1][:beams]
        if len(ended) < beams:
            continue
        if early is True or length == longest:
            break
        horizon = longest if early == "never" and penalty > 0 else length
        if not running or running[0][0] / horizon**penalty <= ended[-1][0]:
            break
    return ended


def greedy(model: LogProbabilities, *, longest: int) -> tuple[float, Text]:
    """The sum of log-probabilities and the text of the likeliest token, again and again."""
    total, text = 0.0, ()
    while len(text) < longest and text[-1:] != (EOS,):
        values = model(text)
        token = int(np.argmax(values))
        total, text = total + values[token], (*text, token)
    return total, text


def log_probabilities(
    source: np.ndarray,
    params: Any,
    config: ModelConfig,
    pieces: int | None = None,
    start: int = EOS,
) -> LogProbabilities:
    """What `tests.models.oracle` says of texts for one source, in float64."""

    memory = oracle.encode(source, params, config)
    if config.attention_fusion == "none":
        memory = memory[-1]
    elif config.attention_fusion == "shared":
        memory = oracle.fuse(memory, params["decoder"]["fusion"]["query"])
    table = params["token_embedding" if config.tie_head else "lm_head"]["embedding"]

    def of(text: Text) -> np.ndarray:
        target = np.array([start, *text])
        past = np.tri(len(target), dtype=bool)
        real = np.tile(source != config.pad_id, (len(target), 1))
        x = oracle.embed(target, params, "decoder", config)
        x = oracle.stack(x, past, memory, real, params["decoder"]["stack"], config)[-1, -1]
        logits = (x @ table.T)[:pieces]
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())

    return functools.cache(of)
