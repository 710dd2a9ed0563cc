"""A transformer encoder-decoder with learned attention fusion, for transformers 4.57 and 5.

    AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)

This file lies beside the weights and needs torch and transformers alone. For models that have no
class there: with attention fusion, no LayerNorm on embeddings, or another epsilon in LayerNorms.

Every sub-layer f updates the residual stream x with its LayerNorm: x + f(norm(x)) in a 'pre' model,
norm(x + f(x)) in a 'post' model. A 'pre' model has one more LayerNorm after each stack. One token
table serves both sides; positions are learned, their two first rows unused. All linear maps have
biases but the projection to the vocabulary.

Attention fusion (Soltan et al. 2023, section 2.1.5): let h_l be the states after encoder layer l,
normalised by the encoder's last LayerNorm in a 'pre' model. A query vector q makes of them
the memory sum_l a_l h_l with a = softmax_l(<q, h_l> / sqrt(D)), for every token on its own. Every
decoder layer has a query ('per_layer') or all have the same one ('shared'). With 'decoder_states'
cross-attention mixes keys and values instead, by the query of each head and target token.

Letters in shape suffixes: B batch, T and S length of target and source, D width, H heads, K width
of a head, L encoder layers, M memories that a decoder layer reads (L if 'decoder_states', else 1),
N memories in all (decoder layers if 'per_layer', else M), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput

IGNORED = -100  # transformers' label for a position that is no target, and PyTorch's
FIRST_POSITION = 2  # row of the position tables that the first token uses

OWN_FIELDS = {
    "vocab_size": 32000,
    "d_model": 1024,
    "ffn_dim": 4096,
    "attention_heads": 16,  # divides d_model
    "encoder_layers": 12,
    "decoder_layers": 12,
    "max_position_embeddings": 512,  # longest source and longest target in tokens
    "norm": "pre",  # or "post"
    "embedding_norm": True,  # a LayerNorm after the embeddings
    "layer_norm_eps": 1e-5,
    "attention_fusion": "none",  # or "shared", "per_layer" or "decoder_states"
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "init_std": 0.02,  # standard deviation of new matrices and tables
}
LIBRARY_FIELDS = {  # fields that transformers itself knows and keeps
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


class SeqRecipesConfig(PretrainedConfig):
    """The fields of config.json, and whatever else transformers writes there."""

    model_type = "seqrecipes"
    # transformers' own names and types
    keys_to_ignore_at_inference = ["past_key_values", "encoder_last_hidden_state"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "d_model",
        "num_hidden_layers": "decoder_layers",
        "num_attention_heads": "attention_heads",
        "initializer_range": "init_std",
    }

    def __init__(self, **kwargs: Any):
        for name, default in OWN_FIELDS.items():
            setattr(self, name, kwargs.pop(name, default))
        super().__init__(**LIBRARY_FIELDS | kwargs)


def layer_norm(config: SeqRecipesConfig) -> nn.LayerNorm:
    """A LayerNorm over the model's width."""
    return nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)


class Attention(nn.Module):
    """Multi-head attention; keys and values are made apart, so that they can be cached."""

    def __init__(self, config: SeqRecipesConfig):
        super().__init__()
        self.heads, self.dropout = config.attention_heads, config.attention_dropout
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, H, T, K], [B, M, S, D] to [B, MH, S, K]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2).flatten(1, -3)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.k_proj(memory)), self.split(self.v_proj(memory))

    def forward(self, x_BxTxD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attends to keys and values [B, MH, S, K] where the mask (None: everywhere) is True."""
        plain = keys.shape[1] == self.heads
        attend = functional.scaled_dot_product_attention if plain else attend_to_layers
        rate = self.dropout if self.training else 0.0
        mixed_BxHxTxK = attend(self.split(self.q_proj(x_BxTxD)), keys, values, mask, rate)
        return self.out_proj(mixed_BxHxTxK.transpose(1, 2).flatten(2))


def attend_to_layers(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attends to keys sum_l a_l k_l and values sum_l a_l v_l with a = softmax_l(<q, k_l>)."""
    keys, values = (x.unflatten(1, (-1, query.shape[1])) for x in (keys, values))
    scores_BxMxHxTxS = (query[:, None] * query.shape[-1] ** -0.5 @ keys.mT).float()
    parts_BxMxHxTxS = scores_BxMxHxTxS.softmax(1)
    scores_BxHxTxS = (parts_BxMxHxTxS * scores_BxMxHxTxS).sum(1)
    if mask is not None:
        scores_BxHxTxS = scores_BxHxTxS.masked_fill(~mask, torch.finfo(torch.float32).min)
    weights_BxHxTxS = functional.dropout(scores_BxHxTxS.softmax(-1), dropout)
    return ((weights_BxHxTxS[:, None] * parts_BxMxHxTxS).to(values.dtype) @ values).sum(1)


class Layer(nn.Module):
    """Self-attention, cross-attention in a decoder, feed-forward."""

    def __init__(self, config: SeqRecipesConfig, index: int, is_decoder: bool):
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
        mask: Tensor | None,
        memory_BxMxSxD: Tensor | None = None,
        positions_T: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """x is [B, S, D] in the encoder, [B, T, D] in the decoder, as is the result.

        Args:
          mask: which source tokens are seen, [B, 1, 1, S]; None: all.
          memory_BxMxSxD, positions_T, cache: of a decoder: what it reads, where its tokens stand,
            and the keys and values of the tokens before them.
        """

        def update(norm: nn.Module, function: Callable[[Tensor], Tensor]) -> Tensor:
            if self.pre_norm:
                return x + self.dropout(function(norm(x)))
            return norm(x + self.dropout(function(x)))

        def attend_to_self(y: Tensor) -> Tensor:
            keys, values = self.self_attn.keys_and_values(y)
            if positions_T is None:
                return self.self_attn(y, keys, values, mask)
            if cache is not None:
                keys, values = cache.self_attention_cache.update(
                    keys, values, self.index, {"cache_position": positions_T}
                )
            # Padding stands at the right, so that causality alone keeps it from every real token.
            past_TxS = torch.arange(keys.shape[2], device=y.device) <= positions_T[:, None]
            return self.self_attn(y, keys, values, past_TxS)

        def attend_to_memory(y: Tensor) -> Tensor:
            if cache is not None and cache.is_updated.get(self.index):
                known = cache.cross_attention_cache.layers[self.index]
                return self.encoder_attn(y, known.keys, known.values, mask)
            keys, values = self.encoder_attn.keys_and_values(memory_BxMxSxD)
            if cache is not None:
                keys, values = cache.cross_attention_cache.update(keys, values, self.index)
                cache.is_updated[self.index] = True
            return self.encoder_attn(y, keys, values, mask)

        x = update(self.self_attn_layer_norm, attend_to_self)
        if memory_BxMxSxD is not None:
            x = update(self.encoder_attn_layer_norm, attend_to_memory)
        return update(self.final_layer_norm, lambda y: self.fc2(functional.gelu(self.fc1(y))))


class Stack(nn.Module):
    """What encoder and decoder have in common: embeddings, layers and the last LayerNorm."""

    def __init__(self, config: SeqRecipesConfig, depth: int, is_decoder: bool):
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


class Encoder(Stack):
    """Source to states, and to the memories that the decoder reads."""

    def __init__(self, config: SeqRecipesConfig):
        super().__init__(config, config.encoder_layers, is_decoder=False)
        queries = {"none": 0, "shared": 1, "per_layer": config.decoder_layers, "decoder_states": 0}
        shape = (queries[config.attention_fusion], config.d_model)
        self.fusion_query = nn.Parameter(torch.zeros(shape)) if shape[0] else None

    def forward(self, tokens_BxSxD: Tensor, mask_Bx1x1xS: Tensor | None) -> tuple[Tensor, ...]:
        """Memories [B, N, S, D], then the states [B, S, D] of embeddings and of every layer."""
        length, device = tokens_BxSxD.shape[1], tokens_BxSxD.device
        x_BxSxD = self.embed(tokens_BxSxD, torch.arange(length, device=device))
        states = [x_BxSxD]
        for layer in self.layers:
            x_BxSxD = layer(x_BxSxD, mask_Bx1x1xS)
            states.append(x_BxSxD)
        states[-1] = self.layer_norm(x_BxSxD)
        earlier = [] if self.fusion == "none" else map(self.layer_norm, states[1:-1])
        layers_BxLxSxD = torch.stack([*earlier, states[-1]], dim=1)
        if self.fusion_query is None:
            return layers_BxLxSxD, *states
        query_NxD = self.fusion_query * self.fusion_query.shape[1] ** -0.5
        scores_BxLxSxN = (layers_BxLxSxD @ query_NxD.T).float()
        weights_BxLxSxN = scores_BxLxSxN.softmax(dim=1).to(x_BxSxD.dtype)
        return torch.einsum("blsd,blsn->bnsd", layers_BxLxSxD, weights_BxLxSxN), *states


class Decoder(Stack):
    """Target and memories to states that predict the next token."""

    def forward(
        self,
        tokens_BxTxD: Tensor,
        memory_BxNxSxD: Tensor,
        memory_mask_Bx1x1xS: Tensor | None,
        cache: EncoderDecoderCache | None,
    ) -> Tensor:
        """States [B, T, D]; with a cache, the tokens are those that follow the ones it knows."""
        seen = int(cache.get_seq_length()) if cache is not None else 0
        positions_T = torch.arange(seen, seen + tokens_BxTxD.shape[1], device=tokens_BxTxD.device)
        x_BxTxD = self.embed(tokens_BxTxD, positions_T)
        for i, layer in enumerate(self.layers):
            memory = memory_BxNxSxD[:, i : i + 1] if self.fusion == "per_layer" else memory_BxNxSxD
            x_BxTxD = layer(x_BxTxD, memory_mask_Bx1x1xS, memory, positions_T, cache)
        return self.layer_norm(x_BxTxD)


@dataclass
class EncoderOutput(ModelOutput):
    """What `generate` keeps of the source. The batch is first everywhere: beams repeat it.

    Attributes:
      last_hidden_state: [B, S, D].
      memory: [B, N, S, D].
      hidden_states: on demand, embeddings and every layer; the last one is `last_hidden_state`.
    """

    last_hidden_state: Tensor | None = None
    memory: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Body(nn.Module):
    """The token table, the encoder and the decoder. Calling it encodes, as `generate` expects."""

    def __init__(self, config: SeqRecipesConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, config.decoder_layers, is_decoder=True)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> EncoderOutput:
        """Encodes [B, S] token ids. The last two arguments are `generate`'s and change nothing."""
        mask_Bx1x1xS = visible(input_ids, attention_mask, self.pad_token_id)
        memory, *states = self.encoder(self.shared(input_ids), mask_Bx1x1xS)
        return EncoderOutput(states[-1], memory, tuple(states) if output_hidden_states else None)


def visible(input_ids: Tensor | None, attention_mask: Tensor | None, pad: int) -> Tensor | None:
    """Which source tokens are seen: [B, 1, 1, S], or None if nothing tells: all."""
    if attention_mask is None and input_ids is not None:
        attention_mask = input_ids != pad
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


class SeqRecipesForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The model with its projection to the vocabulary."""

    config_class = SeqRecipesConfig
    _supports_sdpa = True
    # Version 5 reads target and source, version 4 the targets alone.
    _tied_weights_keys = {"lm_head.weight": "model.shared.weight"}  # noqa: RUF012

    def __init__(self, config: SeqRecipesConfig):
        super().__init__(config)
        self.model = Body(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Encoder) and module.fusion_query is not None:
            nn.init.zeros_(module.fusion_query)  # the plain mean of the layers

    def get_encoder(self) -> Body:
        return self.model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.shared = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.lm_head = value

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The labels [B, T] one position later, after the start token."""
        start_Bx1 = torch.full_like(labels[:, :1], self.config.decoder_start_token_id)
        shifted_BxT = torch.cat([start_Bx1, labels[:, :-1]], dim=1)
        return shifted_BxT.masked_fill(shifted_BxT == IGNORED, self.config.pad_token_id)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: EncoderDecoderCache | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Arguments of `forward` for the next token; the rest of `kwargs` is `generate`'s own."""
        seen = int(past_key_values.get_seq_length()) if past_key_values is not None else 0
        kept = ("attention_mask", "encoder_outputs", "use_cache")
        target = {"decoder_input_ids": input_ids[:, seen:], "past_key_values": past_key_values}
        return target | {name: kwargs.get(name) for name in kept}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: EncoderOutput | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V], and the mean loss over the labels if there are any.

        Args:
          input_ids: source [B, S], padded at the right; or else `encoder_outputs`.
          attention_mask: [B, S], 0 at padding; default: wherever `input_ids` is the padding token.
          decoder_input_ids: target [B, T] after the start token; default: made from the labels.
          labels: [B, T]; -100 is no target.
          past_key_values: `generate`'s cache of the target so far, which it makes and keeps.
          use_cache, return_dict: accepted since transformers passes them; without effect.
        """
        if encoder_outputs is None:
            encoder_outputs = self.model(input_ids, attention_mask)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("decoder_input_ids or labels are needed")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        states_BxTxD = self.model.decoder(
            self.model.shared(decoder_input_ids),
            encoder_outputs.memory,
            visible(input_ids, attention_mask, self.config.pad_token_id),
            past_key_values,
        )
        logits_BxTxV = self.lm_head(states_BxTxD)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits_BxTxV.flatten(0, 1).float(), labels.flatten())
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits_BxTxV,
            past_key_values=past_key_values,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
        )
