"""Our model in the place of one of transformers: the same `generate` over our logits.

Our models compute whole sequences and transformers' search asks for one token after the other; what
is compared here is the search over both sides' logits, token for token.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrecipes import models
from seqrecipes.conversion.hf.parity_report import Generated
from seqrecipes.models.encoder import real_lengths

WIDTH = 128  # sequences are padded to it or to the longest there can be: each width is compiled for
_NEW_TOKENS = 20
_BEAMS = 3


class Ours:
    """Our model in float32, seen as the class that stands for it in transformers."""

    def __init__(self, model: models.Model, params: Mapping[str, Any], theirs: Any):
        # A loop over the layers compiles faster.
        self.config = dataclasses.replace(
            model.config, attention="xla", dtype="float32", scan_layers=True, remat="none"
        )
        self._labels = isinstance(model, models.Labeller)
        self.headless = theirs.get_output_embeddings() is None and not self._labels
        self.seq2seq = theirs.config.is_encoder_decoder
        self._params = {"params": params}
        self._model = model.clone(config=self.config)
        self._states = jax.jit(self._compute_states)
        self._values = jax.jit(self._compute_values, static_argnums=3)

    def states(self, source_BxS: np.ndarray, target_BxT: np.ndarray | None) -> jax.Array:
        """What the head reads: [B, T, D] of a decoder, [B, S, D] of an encoder alone."""
        return self._states(self._params, source_BxS, target_BxT)

    def values(self, states: jax.Array, start: int, rows: int) -> np.ndarray:
        """Logits [B, rows, V], or the states [B, rows, D] themselves, from a position on.

        Of a labeller the logits of all heads side by side, those of <s> at every position.
        """
        return np.asarray(self._values(self._params, states, start, rows))

    def _compute_states(self, params: Any, source: jax.Array, target: jax.Array | None) -> Any:
        def encode(model: Any) -> jax.Array:
            lengths = real_lengths(source, self.config.pad_id)
            return model.encoder(model.token_embedding(source), lengths, None)

        if not self.seq2seq:
            return self._model.apply(params, method=encode)
        batch = {"encoder_input_tokens": source, "decoder_input_tokens": target}
        return self._model.apply(params, batch, method="hidden")

    def _compute_values(self, params: Any, states: jax.Array, start: Any, rows: int) -> Any:
        if self._labels:
            shape = len(states), rows
            positions = jnp.broadcast_to(start + jnp.arange(rows), shape)

            def label(model: Any) -> jax.Array:
                found = model.heads(states, {"word_positions": positions}, None)
                logits = (found[name].logits() for name in sorted(found))
                return jnp.concatenate(
                    [jnp.broadcast_to(each, (*shape, each.shape[-1])) for each in logits], axis=-1
                )

            return self._model.apply(params, method=label)
        chosen = jax.lax.dynamic_slice_in_dim(states, start, rows, axis=1)
        return chosen if self.headless else self._model.apply(params, chosen, method="logits")


def pad(rows: Sequence[np.ndarray], config: models.ModelConfig, width: int = 0) -> np.ndarray:
    """Rows of ids as one array, padded at the right to one of few widths: each is compiled for."""
    longest = max(len(ids) for ids in rows)
    width = width or (WIDTH if longest <= WIDTH < config.max_positions else config.max_positions)
    result = np.full((len(rows), width), config.pad_id, np.int32)
    for row, ids in zip(result, rows, strict=True):
        row[: len(ids)] = ids
    return result


def compare_generation(
    torch: Any, transformers: Any, theirs: Any, ours: Ours, sources: Sequence[np.ndarray]
) -> Iterator[Generated]:
    """transformers' own search over both sides' logits; theirs with its cache, ours without."""
    config = ours.config
    array = pad(sources, config, width=max(map(len, sources)))
    ids = torch.from_numpy(array).long()
    stand_in = _stand_in(torch, transformers, theirs, ours)
    for method, beams in (("greedy search", 1), (f"{_BEAMS} beams", _BEAMS)):
        rows: list[np.ndarray] = []
        for model in (theirs, stand_in):
            found = model.generate(
                ids,
                attention_mask=(ids != config.pad_id).long(),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=min(_NEW_TOKENS, config.max_positions - 1),
                use_cache=model is theirs,
            )
            rows += list(found.numpy())
        padded = pad(rows, config, width=max(map(len, rows))).reshape(2, len(sources), -1)
        differing = (padded[0] != padded[1]).any(axis=1).sum()
        yield Generated(method, len(sources), int(differing))


def _stand_in(torch: Any, transformers: Any, theirs: Any, ours: Ours) -> Any:
    """A model for `generate` that computes with ours: each step reads the whole target so far.

    `generate` calls the encoder once and repeats what it gives for every beam, whence its
    "states" here are the source's ids.
    """
    outputs = transformers.modeling_outputs
    width = min(_NEW_TOKENS, ours.config.max_positions - 1) + 1

    class Source(torch.nn.Module):
        def forward(self, input_ids: Any, **_: Any) -> Any:
            return outputs.BaseModelOutput(last_hidden_state=input_ids[..., None])

    # `generate` refuses a mask that no signature names; the ids say what is padding.
    def forward(
        _: Any, decoder_input_ids: Any, encoder_outputs: Any, attention_mask: Any = None, **__: Any
    ) -> Any:
        target = pad(list(decoder_input_ids.numpy()), ours.config, width)
        states = ours.states(encoder_outputs[0][..., 0].numpy().astype(np.int32), target)
        logits = ours.values(states, decoder_input_ids.shape[1] - 1, 1)
        # Padded rows of our table have no piece.
        logits = logits[..., : theirs.config.vocab_size].copy()
        return outputs.Seq2SeqLMOutput(logits=torch.from_numpy(logits))

    result = copy.copy(theirs)  # the weights are the same objects
    result.__class__ = type(
        type(theirs).__name__,
        (type(theirs),),
        {"forward": forward, "get_encoder": lambda _: Source()},
    )
    return result
