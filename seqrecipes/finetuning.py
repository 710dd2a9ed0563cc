"""Finetuning: how a checkpoint is fine-tuned on a labelled set, filled by gin.

Training and selection see one language, English in the protocol of Soltan et al. 2023 (section 3);
all languages of the set are scored, with the best checkpoint of every seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin

from seqrecipes import models
from seqrecipes.errors import UserError
from seqrecipes.models import Head, Labeller, ModelConfig, Seq2Seq
from seqrecipes.models.decoding import Search
from seqrecipes.training.loss import PLAIN, Loss
from seqrecipes.training.optimizer import AdamW
from seqrecipes.training.partitioning import Partitioning

if TYPE_CHECKING:
    from seqrecipes.data.labelled.sets import LabelledSet

# What each head of a labelled set reads (`seqrecipes.data.labelled.records.HEADS`).
READS = {"label": "first", "words": "words"}
TRAINED, RANDOM = "trained", "random"
# Validation metrics made of the loss, of generation alone; those of `MINIMISED` shall be small.
OF_LOSS = ("perplexity", "loss", "accuracy")
MINIMISED = ("perplexity", "loss")


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """A checkpoint, a labelled set, a schedule (Soltan et al. 2023, appendix C and Table 10).

    Attributes:
      set: a labelled set of the task module.
      metric: by which the best checkpoint is chosen, on the validation split of `language`.
      lengths: {feature: static length} of the set's features.
      optimizer: AdamW and its schedule over all updates.
      batch_size: examples per update.
      epochs: passes over the training split.
      max_updates: a limit on their updates; 0 is none. The schedule ends where training ends.
      checkpoint: a stage's folder or a checkpoint of it; a folder in Hugging Face's format; or, for
        random weights, a file in `configs/`. Empty for a probe of pre-training.
      weights: 'trained', or 'random': the checkpoint's shape and vocabulary alone, as a baseline.
      name: of the model in tables; empty takes the checkpoint's.
      size: of a file in `configs/`.
      vocabulary: path of the SentencePiece model where it does not lie beside the checkpoint.
      language: the one to train and select on.
      languages: those to score; empty scores all of the set.
      hidden: widths of the layers of each head.
      freeze: regular expressions over parameter paths.
      model_overrides: fields of the model's configuration to replace that change no parameter.
      loss: cross-entropy, with label smoothing if asked for.
      search: how texts are generated.
      seeds: one run each: heads, dropout and the order of examples are functions of it.
      validate_every: updates between validations; 0 validates after every epoch.
      log_every: updates between reports.
      logits_tile: positions per example that have vocabulary logits at one time.
      tasks: module that registers the labelled sets.
      partitioning: devices; speed and memory only.
    """

    set: str
    metric: str
    lengths: Mapping[str, int]
    optimizer: AdamW
    batch_size: int
    epochs: int
    max_updates: int = 0
    checkpoint: str = ""
    weights: str = TRAINED
    name: str = ""
    size: str = ""
    vocabulary: str = ""
    language: str = "en"
    languages: Sequence[str] = ()
    hidden: Sequence[int] = (512,)
    freeze: Sequence[str] = ()
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: Loss = PLAIN
    search: Search = dataclasses.field(default_factory=Search)
    seeds: Sequence[int] = (0, 1, 2)
    validate_every: int = 0
    log_every: int = 50
    logits_tile: int = 128
    tasks: str = "tasks.downstream"
    partitioning: Partitioning = dataclasses.field(default_factory=Partitioning)

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "epochs": 1, "log_every": 1, "logits_tile": 1}
        for field, minimum in (least | {"max_updates": 0, "validate_every": 0}).items():
            if getattr(self, field) < minimum:
                raise UserError(
                    f"Finetuning.{field}", getattr(self, field), f"must be at least {minimum}"
                )
        for field in ("languages", "freeze"):
            if isinstance(value := getattr(self, field), str):
                raise UserError(f"Finetuning.{field}", value, f"write a list: ['{value}']")
        if self.weights not in (TRAINED, RANDOM):
            raise UserError("Finetuning.weights", self.weights, f"'{TRAINED}' or '{RANDOM}'")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(
                "Finetuning.seeds", list(self.seeds), "name each once, 0 or more: [0, 1, 2]"
            )

    @property
    def best(self) -> tuple[str, str]:
        """The metric to choose by, and whether it shall be large or small."""
        return self.metric, "min" if self.metric in MINIMISED else "max"

    def updates(self, steps_per_epoch: int) -> int:
        """How many there are: all epochs', or as many as the limit allows."""
        wanted = self.epochs * steps_per_epoch
        return min(wanted, self.max_updates) if self.max_updates else wanted


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


for _configurable in (Finetuning, Search):
    gin.external_configurable(_configurable)
