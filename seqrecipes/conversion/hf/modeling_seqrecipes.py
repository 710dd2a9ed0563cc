"""A transformer encoder-decoder with learned attention fusion, for transformers 4.57 and 5.

    AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)

This file and `layers_seqrecipes.py` lie beside the weights and need torch and transformers alone.
For models that have no class there: with attention fusion, no LayerNorm on embeddings, or another
epsilon in LayerNorms. One token table serves both sides; the projection to the vocabulary has no
bias.

Letters in shape suffixes: B batch, T and S length of target and source, D width, L layers, N
memories (`layers_seqrecipes.py`), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils.generic import can_return_tuple

from .layers_seqrecipes import Decoder, Encoder

IGNORED = -100  # transformers' label for a position that is no target, and PyTorch's

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


class SeqRecipesPreTrainedModel(PreTrainedModel):
    """What both classes have in common."""

    config_class = SeqRecipesConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 - transformers' own type

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Encoder) and module.fusion_query is not None:
            nn.init.zeros_(module.fusion_query)  # the plain mean of the layers


@dataclass
class EncoderOutput(ModelOutput):
    """What `generate` keeps of the source. The batch is first everywhere: beams repeat it.

    Attributes:
      last_hidden_state: [B, S, D].
      memory: [B, N, S, D].
      hidden_states: on demand, embeddings and every layer; the last one is `last_hidden_state`.
      attentions: on demand, [B, H, S, S] of every layer.
    """

    last_hidden_state: Tensor | None = None
    memory: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SourceEncoder(nn.Module):
    """The encoder with the token table, as `generate` calls it."""

    def __init__(self, model: SeqRecipesModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> EncoderOutput | tuple[Any, ...]:
        """Encodes token ids [B, S], or what stands for them, [B, S, D]."""
        config = self.model.config
        table, pad = self.model.shared, config.pad_token_id
        tokens_BxSxD = embedded(table, input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        weights_wanted = given(output_attentions, config.output_attentions)
        found = self.model.encoder(
            tokens_BxSxD, visible(input_ids, attention_mask, pad), weights_wanted
        )
        states_wanted = given(output_hidden_states, config.output_hidden_states)
        output = EncoderOutput(
            last_hidden_state=found.states[-1],
            memory=found.memory,
            hidden_states=found.states if states_wanted else None,
            attentions=found.attentions if weights_wanted else None,
        )
        return output if given(return_dict, config.return_dict) else output.to_tuple()


def given(value: bool | None, default: bool) -> bool:
    """An argument, or else what the configuration says."""
    return default if value is None else value


def embedded(table: nn.Embedding, ids: Tensor | None, states: Tensor | None, *names: str) -> Tensor:
    """States [B, T, D] of tokens, looked up or given."""
    if (ids is None) == (states is None):
        raise ValueError(f"exactly one of {' and '.join(names)} is needed")
    return table(ids) if states is None else states


def visible(input_ids: Tensor | None, attention_mask: Tensor | None, pad: int) -> Tensor | None:
    """Which source tokens are seen: [B, 1, 1, S], or None if nothing tells: all."""
    if attention_mask is None and input_ids is not None:
        attention_mask = input_ids != pad
    return None if attention_mask is None else attention_mask.bool()[:, None, None, :]


class SeqRecipesModel(SeqRecipesPreTrainedModel):
    """The token table, the encoder and the decoder, without the projection to the vocabulary."""

    def __init__(self, config: SeqRecipesConfig):
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, config.decoder_layers, is_decoder=True)
        self.post_init()

    def get_encoder(self, modality: None = None) -> SourceEncoder:
        return SourceEncoder(self)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.shared

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.shared = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | tuple[Any, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """States [B, T, D]; arguments as of `SeqRecipesForConditionalGeneration.forward`."""
        config = self.config
        weights_wanted = given(output_attentions, config.output_attentions)
        states_wanted = given(output_hidden_states, config.output_hidden_states)
        encoded: Any = encoder_outputs
        if encoded is None:
            encoded = self.get_encoder()(
                input_ids, attention_mask, inputs_embeds, weights_wanted, states_wanted, True
            )
        elif not isinstance(encoded, EncoderOutput):
            encoded = EncoderOutput(*encoded[:2])
        if encoded.memory is None or encoded.memory.dim() != 4:
            raise ValueError("encoder_outputs have no memory; take those of get_encoder()")
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        names = "decoder_input_ids", "decoder_inputs_embeds"
        found = self.decoder(
            embedded(self.shared, decoder_input_ids, decoder_inputs_embeds, *names),
            encoded.memory,
            visible(input_ids, attention_mask, config.pad_token_id),
            decoder_attention_mask,
            weights_wanted,
            past_key_values,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=found.states[-1],
            past_key_values=past_key_values,
            decoder_hidden_states=found.states if states_wanted else None,
            decoder_attentions=found.self_attentions if weights_wanted else None,
            cross_attentions=found.cross_attentions if weights_wanted else None,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


class SeqRecipesForConditionalGeneration(SeqRecipesPreTrainedModel, GenerationMixin):
    """The model with its projection to the vocabulary."""

    # Version 5 reads target and source, version 4 the targets alone.
    _tied_weights_keys = {"lm_head.weight": "model.shared.weight"}  # noqa: RUF012

    def __init__(self, config: SeqRecipesConfig):
        super().__init__(config)
        self.model = SeqRecipesModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, modality: None = None) -> SourceEncoder:
        return self.model.get_encoder()

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
        kept = (
            *("attention_mask", "decoder_attention_mask", "encoder_outputs", "use_cache"),
            *("output_attentions", "output_hidden_states"),
        )
        target = {"decoder_input_ids": input_ids[:, seen:], "past_key_values": past_key_values}
        return target | {name: kwargs.get(name) for name in kept}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        encoder_outputs: EncoderOutput | tuple[Any, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V], and the mean loss over the labels if there are any.

        `return_dict=False` gives the parts that there are as a tuple.

        Args:
          input_ids: source [B, S], padded at the right; or else `inputs_embeds` [B, S, D], or
            `encoder_outputs`.
          attention_mask: [B, S], 0 at padding; default: wherever `input_ids` is the padding token.
          decoder_input_ids: target [B, T] after the start token, or else `decoder_inputs_embeds`
            [B, T, D]; default: made from the labels.
          decoder_attention_mask: [B, T], 0 at padding, with the tokens that a cache knows; needed
            only where padding does not stand at the right.
          labels: [B, T]; -100 is no target.
          past_key_values: keys and values of the target so far; the tokens are those that follow.
          use_cache: True starts such a cache.
          output_attentions: the weights of all attentions too; they are computed without
            scaled_dot_product_attention, which keeps none. Default of both: the configuration's.
          output_hidden_states: the states of embeddings and of every layer too.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            if labels is None:
                raise ValueError("decoder_input_ids or labels are needed")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits_BxTxV = self.lm_head(found.last_hidden_state)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits_BxTxV.flatten(0, 1).float(), labels.flatten())
        others = {name: value for name, value in found.items() if name != "last_hidden_state"}
        return Seq2SeqLMOutput(loss=loss, logits=logits_BxTxV, **others)
