"""What a fine-tuned checkpoint says of itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from seqrecipes import models
from seqrecipes.config.finetuning import Search
from seqrecipes.errors import UserError
from seqrecipes.models import Head, Labeller, ModelConfig, Seq2Seq

if TYPE_CHECKING:
    from seqrecipes.data.labelled.sets import LabelledSet

# What each head of a labelled set reads (`seqrecipes.data.labelled.records.HEADS`).
READS: dict[str, Literal["first", "words"]] = {"label": "first", "words": "words"}
# Validation metrics made of the loss, of generation alone.
OF_LOSS = ("perplexity", "loss", "accuracy")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a fine-tuned checkpoint says of itself, under `finetuning` in its metadata.

    Attributes:
      set: name of the labelled set.
      tasks: module that registers it.
      name: of the model, for tables.
      seed: of the run.
      learning_rate: the peak.
      labels: {head: labels in the order of the model's ids}; none for generation.
      hidden: widths of the layers of each head.
      lengths: of the set's features, as configured.
      language: trained and selected on.
      metric: selected by.
      search: how texts are generated.
      batch_size: examples that are predicted at a time.
    """

    set: str
    tasks: str
    name: str
    seed: int
    learning_rate: float
    labels: Mapping[str, Sequence[str]]
    hidden: Sequence[int]
    lengths: Mapping[str, int]
    language: str
    metric: str
    search: Search
    batch_size: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's metadata."""
        return dataclasses.asdict(self)

    @classmethod
    def of_checkpoint(cls, metadata: Mapping[str, Any], *, field: str, value: str) -> Facts:
        """Those in a checkpoint's metadata.

        Raises:
          UserError: it is of no fine-tuning.
        """
        if "finetuning" not in metadata:
            raise UserError(
                field, value, "is not fine-tuned; name a seed's folder that `finetune` has made"
            )
        written = dict(metadata["finetuning"])
        return cls(**written | {"search": Search(**written["search"])})

    def model(self, config: ModelConfig) -> Labeller | Seq2Seq:
        """The module whose parameters the checkpoint holds."""
        if self.labels:
            heads = [
                Head(name, len(labels), tuple(self.hidden), READS[name])
                for name, labels in self.labels.items()
            ]
            return Labeller(config, tuple(heads))
        model = models.build(config)
        assert isinstance(model, Seq2Seq)
        return model

    def check_labels(self, labelled: LabelledSet) -> None:
        """Refuses a set whose labels are not those that the heads were trained for.

        Raises:
          UserError: names the labels that only one of the two has.
        """
        found = labelled.labels
        for head in sorted({*self.labels, *found}):
            ours, theirs = tuple(self.labels.get(head, ())), tuple(found.get(head, ()))
            if ours != theirs:
                raise UserError(
                    f"labels of {self.set}",
                    sorted({*ours} ^ {*theirs}) or "in another order",
                    f"not in both the checkpoint and the set, for the head '{head}'; score it on "
                    "the files that it was trained on",
                )
