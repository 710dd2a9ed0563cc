"""Layers of the encoder-decoder in `modeling_seqrecipes.py`: attention, stacks, attention fusion.

Every sub-layer f updates the residual stream x with its LayerNorm: x + f(norm(x)) in a 'pre' model,
norm(x + f(x)) in a 'post' model. A 'pre' model has one more LayerNorm after each stack. Positions
are learned, the two first rows of their tables unused. All linear maps have biases.

Attention fusion (Soltan et al. 2023, section 2.1.5): let h_l be the states after encoder layer l,
normalised by the encoder's last LayerNorm in a 'pre' model. A query vector q makes of them
the memory sum_l a_l h_l with a = softmax_l(<q, h_l> / sqrt(D)), for every token on its own. Every
decoder layer has a query ('per_layer') or all have the same one ('shared'). With 'decoder_states'
cross-attention mixes keys and values instead, by the query of each head and target token.

Letters in shape suffixes: B batch, T and S length of target and source, D width, H heads, K width
of a head, L encoder layers, M memories that a decoder layer reads (L if 'decoder_states', else 1),
N memories in all (decoder layers if 'per_layer', else M).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer

FIRST_POSITION = 2  # row of the position tables that the first token uses


def layer_norm(config: PretrainedConfig) -> nn.LayerNorm:
    """A LayerNorm over the model's width."""
    return nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that they can be cached."""

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        # The implementation may be set later, so that the configuration itself is kept.
        self.config, self.heads = config, config.attention_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, H, T, K], [B, M, S, D] to [B, MH, S, K]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).flatten(1, -3)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.k_proj(memory)), self.split(self.v_proj(memory))

    def forward(
        self,
        x_BxTxD: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends to keys and values [B, MH, S, K] where the mask (None: everywhere) is True.

        Returns the mixture [B, T, D], and the weights [B, H, T, S] where they exist:
        scaled_dot_product_attention keeps none, and steps back where they are asked for.
        """
        query = self.split(self.q_proj(x_BxTxD))
        rate = self.config.attention_dropout if self.training else 0.0
        weights = None
        if keys.shape[1] != self.heads:
            mixed, weights = attend_to_layers(query, keys, values, mask, rate)
        elif output_attentions or self.config._attn_implementation == "eager":
            mixed, weights = attend(query, keys, values, mask, rate)
        else:
            mixed = functional.scaled_dot_product_attention(query, keys, values, mask, rate)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights


def attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """The mixture [B, H, T, K] of the values, and the weights [B, H, T, S] of it."""
    scores = (query * query.shape[-1] ** -0.5 @ keys.mT).float()
    weights = functional.dropout(masked(scores, mask).softmax(-1), dropout).to(values.dtype)
    return weights @ values, weights


def attend_to_layers(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attends to keys sum_l a_l k_l and values sum_l a_l v_l with a = softmax_l(<q, k_l>)."""
    keys, values = (x.unflatten(1, (-1, query.shape[1])) for x in (keys, values))
    scores_BxMxHxTxS = (query[:, None] * query.shape[-1] ** -0.5 @ keys.mT).float()
    parts_BxMxHxTxS = scores_BxMxHxTxS.softmax(1)
    scores_BxHxTxS = masked((parts_BxMxHxTxS * scores_BxMxHxTxS).sum(1), mask)
    weights_BxHxTxS = functional.dropout(scores_BxHxTxS.softmax(-1), dropout)
    shares_BxMxHxTxS = (weights_BxHxTxS[:, None] * parts_BxMxHxTxS).to(values.dtype)
    return (shares_BxMxHxTxS @ values).sum(1), weights_BxHxTxS.to(values.dtype)


def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores whose softmax is 0 where the mask is False."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


class Updated(NamedTuple):
    """States after a layer; attention weights [B, H, T, T] and [B, H, T, S], if there are any."""

    states: Tensor
    self_attention: Tensor | None
    cross_attention: Tensor | None


class Layer(GradientCheckpointingLayer):
    """Self-attention, cross-attention in a decoder, feed-forward."""

    def __init__(self, config: PretrainedConfig, index: int, is_decoder: bool):
        super().__init__()
        self.index = index
        self.pre_norm = {"pre": True, "post": False}[config.norm]
        self.dropout = nn.Dropout(config.dropout)
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = layer_norm(config)
        if is_decoder:
            self.encoder_attn = Attention(config)
            self.encoder_attn_layer_norm = layer_norm(config)
        self.fc1 = nn.Linear(config.d_model, config.ffn_dim)
        self.fc2 = nn.Linear(config.ffn_dim, config.d_model)
        self.final_layer_norm = layer_norm(config)

    def forward(
        self,
        x: Tensor,
        source_mask: Tensor | None,
        memory_BxMxSxD: Tensor | None = None,
        positions_T: Tensor | None = None,
        target_mask: Tensor | None = None,
        output_attentions: bool = False,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> Updated:
        """x is [B, S, D] in the encoder, [B, T, D] in the decoder, as are the states.

        Args:
          source_mask: which source tokens are seen, [B, 1, 1, S]; None: all.
          memory_BxMxSxD, positions_T, target_mask, past_key_values: of a decoder: what it reads,
            where its tokens stand, which of them and of those before are seen (None: all), and the
            keys and values of the tokens before.
          output_attentions: whether the weights are wanted.
        """
        found: list[Tensor | None] = []

        def update(norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
            if self.pre_norm:
                return x + self.dropout(function(norm(x)))
            return norm(x + self.dropout(function(x)))

        def read(
            attention: Attention, y: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
        ) -> Tensor:
            mixed, weights = attention(y, keys, values, mask, output_attentions)
            found.append(weights)
            return mixed

        def attend_to_self(y: Tensor) -> Tensor:
            keys, values = self.self_attn.keys_and_values(y)
            if positions_T is None:
                return read(self.self_attn, y, keys, values, source_mask)
            if past_key_values is not None:
                keys, values = past_key_values.self_attention_cache.update(
                    keys, values, self.index, {"cache_position": positions_T}
                )
            mask = causal(keys.shape[2], positions_T, target_mask)
            return read(self.self_attn, y, keys, values, mask)

        def attend_to_memory(y: Tensor) -> Tensor:
            if past_key_values is not None and past_key_values.is_updated.get(self.index):
                known = past_key_values.cross_attention_cache.layers[self.index]
                return read(self.encoder_attn, y, known.keys, known.values, source_mask)
            keys, values = self.encoder_attn.keys_and_values(memory_BxMxSxD)
            if past_key_values is not None:
                cache = past_key_values.cross_attention_cache
                keys, values = cache.update(keys, values, self.index)
                past_key_values.is_updated[self.index] = True
            return read(self.encoder_attn, y, keys, values, source_mask)

        x = update(self.self_attn_layer_norm, attend_to_self)
        if memory_BxMxSxD is not None:
            x = update(self.encoder_attn_layer_norm, attend_to_memory)
        x = update(self.final_layer_norm, lambda y: self.fc2(functional.gelu(self.fc1(y))))
        return Updated(x, found[0], found[1] if len(found) > 1 else None)


def causal(length: int, positions_T: Tensor, target_mask: Tensor | None) -> Tensor:
    """Which of `length` keys each token sees: [T, S] or [B, 1, T, S].

    Without a mask of the target, padding has to stand at the right: there causality alone keeps it
    from every real token.
    """
    seen_TxS = torch.arange(length, device=positions_T.device) <= positions_T[:, None]
    if target_mask is None:
        return seen_TxS
    # A cache of fixed length has room for tokens that are still to come.
    visible_BxS = functional.pad(target_mask.bool(), (0, length - target_mask.shape[1]), value=True)
    return seen_TxS & visible_BxS[:, None, None, :]


class Stack(nn.Module):
    """What encoder and decoder have in common: embeddings, layers and the last LayerNorm."""

    def __init__(self, config: PretrainedConfig, depth: int, is_decoder: bool):
        super().__init__()
        self.fusion = config.attention_fusion
        self.dropout = nn.Dropout(config.dropout)
        rows = FIRST_POSITION + config.max_position_embeddings
        self.embed_positions = nn.Embedding(rows, config.d_model)
        self.layernorm_embedding = layer_norm(config) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(Layer(config, i, is_decoder) for i in range(depth))
        self.layer_norm = layer_norm(config) if config.norm == "pre" else nn.Identity()

    def embed(self, tokens_BxTxD: Tensor, positions_T: Tensor) -> Tensor:
        x_BxTxD = tokens_BxTxD + self.embed_positions(positions_T + FIRST_POSITION)
        return self.dropout(self.layernorm_embedding(x_BxTxD))


class Encoded(NamedTuple):
    """Memories [B, N, S, D]; states [B, S, D] of embeddings and every layer; attention weights."""

    memory: Tensor
    states: tuple[Tensor, ...]
    attentions: tuple[Tensor | None, ...]


class Encoder(Stack):
    """Source to states, and to the memories that the decoder reads."""

    def __init__(self, config: PretrainedConfig):
        super().__init__(config, config.encoder_layers, is_decoder=False)
        queries = {"none": 0, "shared": 1, "per_layer": config.decoder_layers, "decoder_states": 0}
        shape = (queries[config.attention_fusion], config.d_model)
        self.fusion_query = nn.Parameter(torch.zeros(shape)) if shape[0] else None

    def forward(
        self,
        tokens_BxSxD: Tensor,
        mask_Bx1x1xS: Tensor | None,
        output_attentions: bool = False,
    ) -> Encoded:
        """Of the states the last one is normalised."""
        length, device = tokens_BxSxD.shape[1], tokens_BxSxD.device
        x_BxSxD = self.embed(tokens_BxSxD, torch.arange(length, device=device))
        states, attentions = [x_BxSxD], []
        for layer in self.layers:
            x_BxSxD, weights, _ = layer(x_BxSxD, mask_Bx1x1xS, output_attentions=output_attentions)
            states.append(x_BxSxD)
            attentions.append(weights)
        states[-1] = self.layer_norm(x_BxSxD)
        earlier = [] if self.fusion == "none" else map(self.layer_norm, states[1:-1])
        layers_BxLxSxD = torch.stack([*earlier, states[-1]], dim=1)
        return Encoded(self._fuse(layers_BxLxSxD), tuple(states), tuple(attentions))

    def _fuse(self, layers_BxLxSxD: Tensor) -> Tensor:
        if self.fusion_query is None:
            return layers_BxLxSxD
        query_NxD = self.fusion_query * self.fusion_query.shape[1] ** -0.5
        scores_BxLxSxN = (layers_BxLxSxD @ query_NxD.T).float()
        weights_BxLxSxN = scores_BxLxSxN.softmax(dim=1).to(layers_BxLxSxD.dtype)
        return torch.einsum("blsd,blsn->bnsd", layers_BxLxSxD, weights_BxLxSxN)


class Decoded(NamedTuple):
    """States [B, T, D] of embeddings and of every layer; attention weights of every layer."""

    states: tuple[Tensor, ...]
    self_attentions: tuple[Tensor | None, ...]
    cross_attentions: tuple[Tensor | None, ...]


class Decoder(Stack):
    """Target and memories to states that predict the next token."""

    def forward(
        self,
        tokens_BxTxD: Tensor,
        memory_BxNxSxD: Tensor,
        source_mask_Bx1x1xS: Tensor | None,
        target_mask: Tensor | None = None,
        output_attentions: bool = False,
        past_key_values: EncoderDecoderCache | None = None,
    ) -> Decoded:
        """Of the states the last one is normalised.

        With a cache the tokens are those that follow the ones it knows.
        """
        seen = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        positions_T = torch.arange(seen, seen + tokens_BxTxD.shape[1], device=tokens_BxTxD.device)
        x_BxTxD = self.embed(tokens_BxTxD, positions_T)
        states, attentions = [x_BxTxD], []
        for i, layer in enumerate(self.layers):
            memory = memory_BxNxSxD[:, i : i + 1] if self.fusion == "per_layer" else memory_BxNxSxD
            x_BxTxD, *weights = layer(
                x_BxTxD,
                source_mask_Bx1x1xS,
                memory,
                positions_T,
                target_mask,
                output_attentions,
                past_key_values=past_key_values,
            )
            states.append(x_BxTxD)
            attentions.append(weights)
        states[-1] = self.layer_norm(x_BxTxD)
        return Decoded(tuple(states), *map(tuple, zip(*attentions, strict=True)))
