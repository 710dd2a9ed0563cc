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
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    ModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class SeqRecipesLabellerConfig(PretrainedConfig):
    """The fields of config.json, and whatever else transformers writes there.

    Attributes:
      encoder_config: that of the encoder, with its `model_type`.
      heads: {name: {'reads': 'first' or 'words', 'hidden': widths of the layers before the last,
        'labels': names of what it predicts}}.
    """

    model_type = "seqrecipes-labeller"

    def __init__(
        self,
        encoder_config: dict[str, Any] | None = None,
        heads: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ):
        self.encoder_config = encoder_config or {}
        self.heads = heads or {}
        super().__init__(**kwargs)


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

    def __init__(self, config: SeqRecipesLabellerConfig):
        super().__init__(config)
        shape = AutoConfig.for_model(**config.encoder_config)
        self.encoder = AutoModel.from_config(shape, add_pooling_layer=False)
        self.heads = nn.ModuleDict(
            {
                name: Head(
                    shape.hidden_size,
                    head["hidden"],
                    len(head["labels"]),
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

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> dict[str, Tensor]:
        """{name of a head: [B, C] where it reads 'first', [B, S, C] where it reads 'words'}."""
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        states_BxSxD = self.encoder(input_ids, attention_mask=attention_mask.long())[0]
        return {
            name: head(
                states_BxSxD[:, 0] if self.config.heads[name]["reads"] == "first" else states_BxSxD
            )
            for name, head in self.heads.items()
        }

    def only(
        self, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> dict[str, Tensor | None]:
        """The one head's logits, and the mean loss over the labels if there are any."""
        (logits,) = self.logits(input_ids, attention_mask).values()
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
        return {"loss": loss, "logits": logits}


class SeqRecipesForSequenceClassification(SeqRecipesLabeller):
    """Labels texts, or pairs of them."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits [B, C].

        Args:
          input_ids: [B, S], <s> first, padded at the right.
          attention_mask: [B, S], 0 at padding; default: wherever `input_ids` is the padding token.
          labels: [B]; -100 is no target.
        """
        return SequenceClassifierOutput(**self.only(input_ids, attention_mask, labels))


class SeqRecipesForTokenClassification(SeqRecipesLabeller):
    """Labels words."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Logits [B, S, C].

        Args:
          input_ids: [B, S], <s> first, padded at the right.
          attention_mask: [B, S], 0 at padding; default: wherever `input_ids` is the padding token.
          labels: [B, S]; -100 is no target, as at every token that is not the first of a word.
        """
        return TokenClassifierOutput(**self.only(input_ids, attention_mask, labels))


@dataclass
class JointOutput(ModelOutput):
    """What both heads say.

    Attributes:
      label_logits: [B, C] of the text.
      word_logits: [B, S, C] of every token.
    """

    label_logits: Tensor | None = None
    word_logits: Tensor | None = None


class SeqRecipesForJointLabelling(SeqRecipesLabeller):
    """Labels texts and their words: intents and slots."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> JointOutput:
        """Logits of both heads; arguments as of the classes with one."""
        found = self.logits(input_ids, attention_mask)
        return JointOutput(label_logits=found["label"], word_logits=found["words"])
