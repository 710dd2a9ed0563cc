"""Greedy and beam search with cached keys and values, as one compiled program.

The search is that of `generate` in transformers 5, hypothesis for hypothesis, so that an exported
model writes there what it writes here. One source does not change what is written for another.

Letters: B sources, N beams, C candidates, S source length, T tokens written at most, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqrecipes import tree
from seqrecipes.config.finetuning import Search
from seqrecipes.errors import UserError
from seqrecipes.models import Model, Seq2Seq, cache

Array = jax.Array

# The decoder reads </s> first, and </s> ends a text (`seqrecipes.data.pieces`).
START = EOS = 2
# Tokens that keys and values have room for at first. The room doubles when it is full, since a
# token costs as much as there is room, and most texts end long before the longest.
_ROOM = 32


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Tokens that are not looked for; a forced one costs nothing, and no other may stand there.

    Attributes:
      start: what the decoder reads first, before the text; `decoder_start_token_id` there.
      first: with which every text begins, or None; `forced_bos_token_id` there.
      last: the token at `max_length`, or None; `forced_eos_token_id` there.
    """

    start: int = START
    first: int | None = None
    last: int | None = None


ONLY_START = Fixed()


class Generated(NamedTuple):
    """Hypotheses, the best of each source first.

    Attributes:
      tokens: int32[B, n, T] without the start token, padded at the right; T is max_length.
      lengths: int32[B, n], </s> counted; 0 where there is no hypothesis: the source was padding
        alone, or fewer texts than beams can be written.
      scores: float32[B, n], see `Search`; -inf where the length is 0.
    """

    tokens: Array
    lengths: Array
    scores: Array


class _Hypotheses(NamedTuple):
    """Some of each source: tokens [B, N, T], lengths [B, N] (0: none), scores [B, N] (none: -inf).

    The score of one that grows is the plain sum.
    """

    tokens: Array
    lengths: Array
    scores: Array

    def pick(self, index_BxM: Array) -> _Hypotheses:
        """Those with these numbers."""
        return _Hypotheses(
            jnp.take_along_axis(self.tokens, index_BxM[..., None], axis=1),
            jnp.take_along_axis(self.lengths, index_BxM, axis=1),
            jnp.take_along_axis(self.scores, index_BxM, axis=1),
        )


class _State(NamedTuple):
    """Between two tokens.

    Attributes:
      length: tokens written so far.
      last_BxN: the last ones of the growing hypotheses.
      past: their keys and values.
      growing: hypotheses.
      ended: hypotheses.
      open_B: sources that are not done.
    """

    length: Array
    last_BxN: Array
    past: cache.KeysValues
    growing: _Hypotheses
    ended: _Hypotheses
    open_B: Array


def make_generate(
    model: Model, search: Search, *, pieces: int | None = None, fixed: Fixed = ONLY_START
) -> Callable[[Any, Array], Generated]:
    """A compiled search, for parameters and `encoder_input_tokens` [B, S].

    On a mesh, call it under `Partitioning.on`, with the batch laid out as for training.

    Args:
      model: a sequence-to-sequence model.
      search: how.
      pieces: tokens of the vocabulary; the table's rows from there on are never written. None: all.
      fixed: tokens that are not looked for.

    Raises:
      UserError: the model has no decoder, or not as many positions.
    """
    if not isinstance(model, Seq2Seq):
        raise UserError("model", "encoder-only", "has no decoder to write with; take a seq2seq one")
    longest = model.config.max_positions
    if search.max_length > longest:
        raise UserError(
            "Search.max_length", search.max_length, f"this model writes at most {longest}"
        )
    rows = model.config.vocab_size if pieces is None else pieces

    def generate(params: Any, tokens_BxS: Array) -> Generated:
        run = _Run(model, search, fixed, rows, _narrowed(params, model.config.dtype))
        return run(tokens_BxS)

    return jax.jit(generate)


def _narrowed(params: Any, dtype: str) -> Any:
    """Matrices in the compute type, to which layers would cast them again for every token."""
    return tree.unflatten(
        {
            path: leaf.astype(dtype) if path.endswith(("kernel", "embedding")) else leaf
            for path, leaf in tree.flatten(params).items()
        }
    )


class _Run:
    """One trace of the search."""

    def __init__(self, model: Seq2Seq, search: Search, fixed: Fixed, rows: int, params: Any):
        self._model, self._search, self._fixed, self._rows = model, search, fixed, rows
        self._variables = {"params": params}
        self._tokens = search.max_length
        # As many as can end at once, and as many again that go on.
        self._candidates = 2 * search.beams if search.beams > 1 else 1
        # Greedy search does not look further than its one hypothesis.
        self._stops_when_full = search.early_stopping is True or search.beams == 1

    def __call__(self, tokens_BxS: Array) -> Generated:
        source = self._call("remember", tokens_BxS)
        room = min(_ROOM, self._tokens)
        state = self._start(source, room)
        while True:
            state = self._fill(state, source, room)
            if room == self._tokens:
                break
            room, before = min(2 * room, self._tokens), room
            state = state._replace(past=cache.widen(state.past, room - before))
        tokens, lengths, scores = (x[:, : self._search.best] for x in state.ended)
        real = jnp.arange(self._tokens) < lengths[..., None]
        return Generated(jnp.where(real, tokens, self._model.config.pad_id), lengths, scores)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._model.apply(self._variables, *arguments, method=method)

    def _fill(self, state: _State, source: cache.Source, room: int) -> _State:
        """Writes until there is no more room, or nothing to write."""
        return jax.lax.while_loop(
            lambda s: (s.length < room) & s.open_B.any(), lambda s: self._step(s, source), state
        )

    def _start(self, source: cache.Source, room: int) -> _State:
        batch, beams = source.lengths_B.shape[0], self._search.beams
        none = _Hypotheses(
            jnp.zeros((batch, beams, self._tokens), jnp.int32),
            jnp.zeros((batch, beams), jnp.int32),
            jnp.full((batch, beams), -jnp.inf, jnp.float32),
        )
        return _State(
            length=jnp.zeros((), jnp.int32),
            last_BxN=jnp.full((batch, beams), self._fixed.start, jnp.int32),
            past=cache.empty(self._model.config, batch, beams, room),
            # All beams start alike: one is enough to begin with.
            growing=none._replace(scores=none.scores.at[:, 0].set(0.0)),
            ended=none,
            open_B=source.lengths_B > 0,
        )

    def _step(self, state: _State, source: cache.Source) -> _State:
        """One more token."""
        hidden_BxNxD, past = self._call("step", state.last_BxN, state.past, source, state.length)
        parents_BxC, grown = self._continuations(state, hidden_BxNxD)
        length = state.length + 1
        beams = self._search.beams
        last_BxC = jax.lax.dynamic_index_in_dim(grown.tokens, state.length, 2, keepdims=False)
        ends_BxC = (last_BxC == EOS) | (length == self._tokens)

        # One behind the first N may not end: it is there so that N can go on.
        counts = ends_BxC & (jnp.arange(self._candidates) < beams) & state.open_B[:, None]
        scores = jnp.where(counts, grown.scores / self._norm(length), -jnp.inf)
        new = _Hypotheses(grown.tokens, jnp.where(counts, length, 0), scores)
        every = _Hypotheses(
            *(jnp.concatenate(pair, axis=1) for pair in zip(state.ended, new, strict=True))
        )
        ended = every.pick(jax.lax.top_k(every.scores, beams)[1])

        # With more beams than pieces too few go on: the others are none from here.
        sums, going_BxN = jax.lax.top_k(jnp.where(ends_BxC, -jnp.inf, grown.scores), beams)
        growing = grown.pick(going_BxN)._replace(scores=sums)
        if beams > 1:
            past = cache.choose(past, jnp.take_along_axis(parents_BxC, going_BxN, axis=1))
        return _State(
            length=length,
            last_BxN=jnp.take_along_axis(last_BxC, going_BxN, axis=1),
            past=past,
            growing=growing,
            ended=ended,
            open_B=state.open_B & self._goes_on(growing, ended, length),
        )

    def _continuations(self, state: _State, hidden_BxNxD: Array) -> tuple[Array, _Hypotheses]:
        """The best C hypotheses with one more token, and which beam each comes from."""
        logits_BxNxV = self._call("logits", hidden_BxNxD).astype(jnp.float32)
        if self._rows < self._model.config.vocab_size:
            is_piece = jnp.arange(self._model.config.vocab_size) < self._rows
            logits_BxNxV = jnp.where(is_piece, logits_BxNxV, -jnp.inf)
        for token, place in ((self._fixed.first, 0), (self._fixed.last, self._tokens - 1)):
            if token is not None:
                is_it = jnp.arange(self._model.config.vocab_size) == token
                forced_BxNxV = jnp.where(is_it, jnp.zeros_like(logits_BxNxV), -jnp.inf)
                logits_BxNxV = jnp.where(state.length == place, forced_BxNxV, logits_BxNxV)
        # The best C of all are among the best C of each beam.
        count = min(self._candidates, self._rows)
        top_BxNxC, ids_BxNxC = jax.lax.top_k(logits_BxNxV, count)
        totals = jax.nn.logsumexp(logits_BxNxV, axis=-1, keepdims=True)
        sums = state.growing.scores[..., None] + (top_BxNxC - totals)
        scores_BxC, chosen_BxC = jax.lax.top_k(_flat(sums), self._candidates)
        parents_BxC = chosen_BxC // count
        ids_BxC = jnp.take_along_axis(_flat(ids_BxNxC), chosen_BxC, axis=1)
        grown = state.growing.pick(parents_BxC)
        tokens = jax.lax.dynamic_update_index_in_dim(grown.tokens, ids_BxC, state.length, axis=2)
        return parents_BxC, grown._replace(tokens=tokens, scores=scores_BxC)

    def _norm(self, length: Array | int) -> Array:
        return jnp.asarray(length, jnp.float32) ** self._search.length_penalty

    def _goes_on(self, growing: _Hypotheses, ended: _Hypotheses, length: Array) -> Array:
        """Which sources may still get better hypotheses: bool[B]."""
        at = self._search.early_stopping == "never" and self._search.length_penalty > 0
        hoped_B = growing.scores[:, 0] / self._norm(self._tokens if at else length)
        goes_on_B = hoped_B > ended.scores.min(axis=1)
        if self._stops_when_full:
            goes_on_B &= (ended.lengths == 0).any(axis=1)
        return goes_on_B


def _flat(x_BxNxC: Array) -> Array:
    return x_BxNxC.reshape(len(x_BxNxC), -1)
