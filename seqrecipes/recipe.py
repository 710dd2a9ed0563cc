"""Recipe, Stage, Phase, WarmStart: the whole plan of a sequential pre-training, filled by gin.

A recipe is a sequence of stages. A stage trains one model on one objective under one learning-rate
schedule; it may start from another checkpoint, and its phases differ in what is frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin

from seqrecipes.errors import UserError
from seqrecipes.finetuning import Finetuning
from seqrecipes.models import ModelConfig
from seqrecipes.training.checkpoints import Checkpointing
from seqrecipes.training.loss import PLAIN, Loss
from seqrecipes.training.optimizer import AdamW
from seqrecipes.training.partitioning import Partitioning
from seqrecipes.training.phases import Phase

# What a run's folder says of itself.
RECIPE_FILE = "recipe.json"


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Where a stage's first parameters come from.

    Attributes:
      source: an earlier stage of the recipe by name, or a path: a stage's folder or one of its
        checkpoints.
      conversion: one of `seqrecipes.conversion.warm_start.CONVERSIONS`.
    """

    source: str
    conversion: str


@dataclasses.dataclass(frozen=True)
class Stage:
    """One model, one objective, one schedule.

    Attributes:
      name: name of its folder in MODEL_DIR.
      model: path of a file in `configs/`, or of a checkpoint (a stage's folder) to be as it is.
      size: which of the file's sizes; nothing to a checkpoint.
      objective: how text becomes examples: `mlm`, `span_drop`, `span_mask`.
      phases: spans of steps with their frozen sets, in order.
      batch_size: examples per update.
      optimizer: AdamW and its schedule over all phases.
      loss: cross-entropy, with label smoothing or z-loss if asked for.
      warm_start: None starts from random parameters.
      model_overrides: fields of the model's configuration to replace.
    """

    name: str
    model: str
    size: str
    objective: str
    phases: Sequence[Phase]
    batch_size: int
    optimizer: AdamW = dataclasses.field(default_factory=AdamW)
    loss: Loss = PLAIN
    warm_start: WarmStart | None = None
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError("Stage.name", self.name, "must be usable as the name of a folder")

    @property
    def steps(self) -> int:
        """Updates of all phases."""
        return sum(phase.steps for phase in self.phases)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stages in order, and what they share.

    Attributes:
      stages: what to train.
      corpus: a corpus registered in the task module.
      sequence_length: tokens per packed sequence, the two ends included.
      prepared: folder of text prepared by `python -m seqrecipes.prepare`, to be read in place of
        the corpus; empty prepares the corpus in the run's folder.
      vocabulary: path of a SentencePiece model; empty trains one on the corpus.
      vocabulary_size: pieces of the vocabulary to train, special ones included.
      alpha: languages are sampled by n ** alpha (Conneau et al. 2020); 1 is proportional.
      temperature: samples by n ** (1 / temperature) instead, as is usual for pairs of translations;
        0 leaves it to alpha.
      seed: every random choice is a function of it.
      tasks: module that registers the seqio tasks.
      partitioning: devices; speed and memory only.
      checkpointing: when to save and what to keep.
      logits_tile: positions per example that have vocabulary logits at one time.
      log_every: steps between reports.
      validate_every: steps between validations.
      validation_examples: largest number of validation examples; 0 takes all.
      shared: folders of other runs; a stage that one of them has under the same name is taken from
        there, if it would be trained alike.
      probes: small downstream tasks on which every stage is fine-tuned, as it stands, and scored on
        their validation splits; those to be generated only where the stage has a decoder.
      probe_every: steps between two such looks; there is one before the first step and one after
        the last.
      predictions: validation examples of which every finished stage shows in the report what it
        makes; 0 is none.
      export_hf: write every finished stage in Hugging Face's format too, into `hf/` of its folder.
    """

    stages: Sequence[Stage]
    corpus: str
    sequence_length: int = 512
    prepared: str = ""
    vocabulary: str = ""
    vocabulary_size: int = 150_000
    alpha: float = 0.3
    temperature: float = 0.0
    seed: int = 0
    tasks: str = "tasks.pretrain"
    partitioning: Partitioning = dataclasses.field(default_factory=Partitioning)
    checkpointing: Checkpointing = dataclasses.field(default_factory=Checkpointing)
    logits_tile: int = 128
    log_every: int = 50
    validate_every: int = 5_000
    validation_examples: int = 4_096
    shared: Sequence[str] = ()
    probes: Sequence[Finetuning] = ()
    probe_every: int = 0
    predictions: int = 0
    export_hf: bool = False

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("Recipe.stages", list(self.stages), "name at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError("Recipe.stages", names, "every stage needs a name of its own")
        least = {"sequence_length": 8, "vocabulary_size": 16, "logits_tile": 1, "log_every": 1}
        for field, minimum in (
            least | {"validate_every": 1, "validation_examples": 0, "predictions": 0}
        ).items():
            if getattr(self, field) < minimum:
                raise UserError(
                    f"Recipe.{field}", getattr(self, field), f"must be at least {minimum}"
                )
        if not 0 <= self.alpha <= 1:
            raise UserError("Recipe.alpha", self.alpha, "lies in [0, 1]")
        if self.temperature and self.temperature < 1:
            raise UserError("Recipe.temperature", self.temperature, "is 1 or more, or 0 for none")
        if self.prepared and not self.vocabulary:
            raise UserError(
                "Recipe.vocabulary",
                self.vocabulary,
                f"name the one that {self.prepared} was prepared with",
            )
        if isinstance(self.shared, str):
            raise UserError("Recipe.shared", self.shared, "write a list: ['runs/roberta_12e']")
        if bool(self.probes) != bool(self.probe_every) or self.probe_every < 0:
            raise UserError(
                "Recipe.probe_every",
                self.probe_every,
                "is the number of steps between probes where the recipe has any, else 0",
            )
        sets = [probe.set for probe in self.probes]
        if len(set(sets)) < len(sets):
            raise UserError("Recipe.probes", sets, "name every set once")
        if self.seed < 0:
            raise UserError("Recipe.seed", self.seed, "must be 0 or more")

    @property
    def smoothing(self) -> float:
        """The exponent of language shares: 1 / temperature where that is set, else alpha."""
        return 1 / self.temperature if self.temperature else self.alpha

    def index(self, name: str) -> int:
        """Position of a stage."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise UserError("--stage", name, f"the recipe's stages are {', '.join(names)}")
        return names.index(name)


def training_units(config: ModelConfig, phases: Sequence[Phase], tokens_per_update: int) -> float:
    """TU of a stage by the rule of Soltan et al. 2023 (section 2.1, appendix D).

    1 TU is 100k updates of 12 layers with D = 1024 on 1M (2048 x 512) tokens. A frozen layer of the
    encoder counts half, every other layer counts one; embeddings and heads count nothing. Other
    widths and batches count in proportion to D^2 and tokens.
    """
    scale = (config.hidden_size / 1024) ** 2 * tokens_per_update / (2048 * 512)
    total = 0.0
    for phase in phases:
        depth = config.encoder_layers
        frozen = depth if "encoder" in phase.freeze else phase.frozen_encoder_layers
        layers = 0.5 * frozen + (depth - frozen) + config.decoder_layers
        total += phase.steps / 100_000 * layers / 12
    return total * scale


for _configurable in (Recipe, Stage, Phase, WarmStart, AdamW, Loss, Partitioning, Checkpointing):
    gin.external_configurable(_configurable)
