"""An encoder with heads that label a text, its words, or both, for transformers 4.57 and 5.

    AutoModelForTokenClassification.from_pretrained(folder, trust_remote_code=True)

This file lies beside the weights and needs torch and transformers alone. The encoder is
transformers' own, without a pooling layer: RoBERTa-PreLayerNorm or XLM-R, as `encoder_config` says.
A head is some linear layers with the exact (erf) GELU between them, with dropout before each. One
that reads 'first' labels the text by the state of <s>; one that reads 'words' labels every token,
of which the first of a word has the word's label (Soltan et al. 2023, section 3.1 and appendix C).

Letters in shape suffixes: B batch, S tokens, D width, C labels of a head.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    ModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple


class SeqRecipesLabellerConfig(PretrainedConfig):
    """The fields of config.json, and whatever else transformers writes there.

    The configuration of an encoder alone is taken too: the model then gets new heads.

    Attributes:
      encoder_config: that of the encoder.
      heads: {name: {'reads': 'first' or 'words', 'hidden': widths of the layers before the last,
        'labels': names of what it predicts; left out where there is one head, whose labels are
        those of `id2label`}}.
    """

    model_type = "seqrecipes-labeller"
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012 - transformers' own type

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        heads: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ):
        if encoder_config is None:
            encoder_config = {"model_type": "roberta-prelayernorm"} | {
                name: value for name, value in kwargs.items() if name not in ("architectures",)
            }
        if isinstance(encoder_config, dict):
            encoder_config = AutoConfig.for_model(**encoder_config)
        self.encoder_config = encoder_config
        self.heads = heads or {}
        super().__init__(**kwargs)

    def get_text_config(self, *_: Any, **__: Any) -> PretrainedConfig:
        """The part that says how large the vocabulary is."""
        return self.encoder_config


class Head(nn.Module):
    """Logits [..., C] of states [..., D]."""

    def __init__(self, width: int, hidden: list[int], labels: int, dropout: float):
        super().__init__()
        widths = [width, *hidden]
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], labels)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = functional.gelu(layer(self.dropout(x)))
        return self.output(self.dropout(x))


class SeqRecipesLabeller(PreTrainedModel):
    """The encoder and its heads."""

    config_class = SeqRecipesLabellerConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    # What the encoder's class supports.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    new_heads: dict[str, str] = {}  # noqa: RUF012 - {name: what it reads}, for an encoder alone

    def __init__(self, config: SeqRecipesLabellerConfig):
        super().__init__(config)
        shape: Any = config.encoder_config
        if not config.heads:
            config.heads = {
                name: {"reads": reads, "hidden": []} for name, reads in self.new_heads.items()
            }
        # Not by AutoModel, which copies the configuration: later changes have to reach the encoder.
        self.encoder = MODEL_MAPPING[type(shape)](shape, add_pooling_layer=False)
        self.heads = nn.ModuleDict(
            {
                name: Head(
                    shape.hidden_size,
                    head["hidden"],
                    len(head["labels"]) if "labels" in head else config.num_labels,
                    shape.hidden_dropout_prob,
                )
                for name, head in config.heads.items()
            }
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.encoder.set_input_embeddings(value)

    def label(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, **arguments: Any
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """{head: logits [B, C] where it reads 'first', [B, S, C] where it reads 'words'}, and
        whatever else the encoder gives.
        """
        if attention_mask is None and input_ids is not None:
            attention_mask = input_ids != self.config.encoder_config.pad_token_id
        if attention_mask is not None:
            attention_mask = attention_mask.long()
        for name in ("output_attentions", "output_hidden_states"):
            if arguments[name] is None:
                arguments[name] = getattr(self.config, name)
        output: BaseModelOutput = self.encoder(
            input_ids, attention_mask=attention_mask, return_dict=True, **arguments
        )
        states_BxSxD = output.last_hidden_state
        logits = {
            name: head(
                states_BxSxD[:, 0] if self.config.heads[name]["reads"] == "first" else states_BxSxD
            )
            for name, head in self.heads.items()
        }
        return logits, {"hidden_states": output.hidden_states, "attentions": output.attentions}


class SeqRecipesForSequenceClassification(SeqRecipesLabeller):
    """Labels texts, or pairs of them."""

    new_heads = {"label": "first"}  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [B, C].

        Args:
          input_ids: [B, S], <s> first, padded at the right.
          attention_mask: [B, S], 0 at padding; default: wherever `input_ids` is the padding token.
          token_type_ids, position_ids, inputs_embeds, output_attentions, output_hidden_states: as
            of the encoder's class.
          labels: [B]; -100 is no target. With `problem_type` in the configuration, numbers
            ('regression') or [B, C] ('multi_label_classification').
        """
        found, others = self.label(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        (logits,) = found.values()
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, **others)


class SeqRecipesForTokenClassification(SeqRecipesLabeller):
    """Labels words."""

    new_heads = {"words": "words"}  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TokenClassifierOutput:
        """Logits [B, S, C].

        Args:
          input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, output_attentions,
            output_hidden_states: as of `SeqRecipesForSequenceClassification`.
          labels: [B, S]; -100 is no target, as at every token that is not the first of a word.
        """
        found, others = self.label(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        (logits,) = found.values()
        loss = None if labels is None else cross_entropy(logits, labels)
        return TokenClassifierOutput(loss=loss, logits=logits, **others)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over all labels but -100."""
    return functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())


@dataclass
class JointOutput(ModelOutput):
    """What both heads say.

    Attributes:
      loss: the sum over both heads, where there are labels.
      label_logits: [B, C] of the text.
      word_logits: [B, S, C] of every token.
      hidden_states, attentions: on demand, as of the encoder's class.
    """

    loss: Tensor | None = None
    label_logits: Tensor | None = None
    word_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SeqRecipesForJointLabelling(SeqRecipesLabeller):
    """Labels texts and their words: intents and slots."""

    new_heads = {"label": "first", "words": "words"}  # noqa: RUF012

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        word_labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> JointOutput:
        """Logits of both heads; labels [B] and word_labels [B, S], otherwise as the other two."""
        found, others = self.label(
            input_ids,
            attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        losses = [
            cross_entropy(logits, each)
            for logits, each in ((found["label"], labels), (found["words"], word_labels))
            if each is not None
        ]
        return JointOutput(
            loss=sum(losses) if losses else None,
            label_logits=found["label"],
            word_logits=found["words"],
            **others,
        )
