"""Finetuning: how a checkpoint is fine-tuned on a labelled set, filled by gin.

Training and selection see one language, English in the protocol of Soltan et al. 2023 (section 3);
all languages of the set are scored, with the best checkpoint of every seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import gin

from seqrecipes.config.check import Range, check_fields
from seqrecipes.config.optimizers import Chosen
from seqrecipes.config.training import PLAIN, Loss, Partitioning, Positive
from seqrecipes.errors import UserError

TRAINED: Literal["trained"] = "trained"
RANDOM: Literal["random"] = "random"
# Validation metrics that shall be small.
MINIMISED = ("perplexity", "loss")

Count = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Search:
    """How texts are looked for; the words and their meaning are transformers'.

    A hypothesis of n tokens, </s> among them, scores the sum of their log-probabilities over
    n^length_penalty. At `max_length` tokens all hypotheses end as they
    are.

    Attributes:
      beams: hypotheses of a source that are kept while they grow; 1 is greedy search.
      max_length: the most tokens of a text, </s> among them; `max_new_tokens` there.
      length_penalty: above 0 prefers longer texts, below 0 shorter ones.
      early_stopping: when a source is done. True: when `beams` hypotheses have ended. False: when
        the best of the growing ones, if it ended now, would not be better than the worst of these.
        'never': when it could not be better at any length.
      best: the best so many hypotheses are given.
    """

    beams: Positive = 1
    max_length: Positive = 128
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    best: Positive = 1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.best > self.beams:
            raise UserError("Search.best", self.best, f"there are no more than {self.beams} beams")


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """A checkpoint, a labelled set, a schedule (Soltan et al. 2023, appendix C and Table 10).

    Attributes:
      set: a labelled set of the task module.
      metric: by which the best checkpoint is chosen, on the validation split of `language`.
      lengths: {feature: static length} of the set's features.
      optimizer: one of `config.optimizers`, with its schedule over all updates.
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
      skip_nonfinite: as `Recipe.skip_nonfinite`.
      logits_tile: positions per example that have vocabulary logits at one time.
      tasks: module that registers the labelled sets.
      partitioning: devices; speed and memory only.
    """

    set: str
    metric: str
    lengths: Mapping[str, Positive]
    optimizer: Chosen
    batch_size: Positive
    epochs: Positive
    max_updates: Count = 0
    checkpoint: str = ""
    weights: Literal["trained", "random"] = TRAINED
    name: str = ""
    size: str = ""
    vocabulary: str = ""
    language: str = "en"
    languages: Sequence[str] = ()
    hidden: Sequence[Positive] = (512,)
    freeze: Sequence[str] = ()
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: Loss = PLAIN
    search: Search = dataclasses.field(default_factory=Search)
    seeds: Sequence[Annotated[int, Range(0, below=2**32)]] = (0, 1, 2)
    validate_every: Count = 0
    log_every: Positive = 50
    skip_nonfinite: Count = 0
    logits_tile: Positive = 128
    tasks: str = "tasks.downstream"
    partitioning: Partitioning = dataclasses.field(default_factory=Partitioning)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(
                "Finetuning.seeds", list(self.seeds), "name each once, 0 or more: [0, 1, 2]"
            )

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """The metric to choose by, and whether it shall be large or small."""
        return self.metric, "min" if self.metric in MINIMISED else "max"

    def updates(self, steps_per_epoch: int) -> int:
        """How many there are: all epochs', or as many as the limit allows."""
        wanted = self.epochs * steps_per_epoch
        return min(wanted, self.max_updates) if self.max_updates else wanted


@dataclasses.dataclass(frozen=True)
class FinetuningRun:
    """What gin files call `finetune`.

    Attributes:
      finetuning: what to fine-tune, and how.
      model_dir: the run's folder.
    """

    finetuning: Finetuning
    model_dir: str

    def __post_init__(self) -> None:
        check_fields(self, "finetune")
        if not self.model_dir:
            raise UserError("finetune.model_dir", self.model_dir, "name a folder")


for _configurable in (Finetuning, Search):
    gin.external_configurable(_configurable)
finetune = gin.external_configurable(FinetuningRun, "finetune")
