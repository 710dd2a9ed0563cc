"""Recipe, Stage, Phase, WarmStart: the whole plan of a sequential pre-training, filled by gin.

A recipe is a sequence of stages. A stage trains one model on one objective under one learning-rate
schedule; it may start from another checkpoint, and its phases differ in what is frozen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import gin

from seqrecipes.config.check import Range, check_fields, did_you_mean
from seqrecipes.config.finetuning import Finetuning
from seqrecipes.config.optimizers import OPTIMIZERS, AdamW, Chosen
from seqrecipes.config.training import PLAIN, Checkpointing, Loss, Partitioning, Positive
from seqrecipes.config.vocabulary import Normalization
from seqrecipes.errors import UserError

# The encoder's layers, stacked.
LAYERS = "encoder/stack/layers"
# JAX takes a seed modulo 2 ** 32.
SEEDS = 2**32

Count = Annotated[int, Range(0)]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A span of steps with one set of frozen parameters.

    Attributes:
      steps: number of updates.
      freeze: regular expressions over parameter paths, e.g. ('encoder', 'token_embedding').
      train: the same, for what is to train while all else is frozen; in place of `freeze`.
      frozen_dropout: dropout inside what is frozen stays on, as in our reading of Soltan et al.
        2023, section 2.1.5; False computes a wholly frozen encoder as at inference.
      frozen_encoder_layers: so many of the encoder's lowest layers are frozen beside what `freeze`
        names, which must name what lies below them: ('token_embedding', 'encoder/embedding').
        Phases of fewer and fewer are gradual unfreezing (Howard and Ruder 2018, section 3.3).
      micro_batches: parts of a batch in this phase; 0 takes `Partitioning.micro_batches`. Frozen
        layers keep no activations, so that fewer and larger parts may fit.
    """

    steps: Positive
    freeze: Sequence[str] = ()
    train: Sequence[str] = ()
    frozen_dropout: bool = True
    frozen_encoder_layers: Count = 0
    micro_batches: Count = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.freeze and self.train:
            remedy = "freezes all but itself; leave Phase.freeze empty, or leave this out"
            raise UserError("Phase.train", list(self.train), remedy)

    @property
    def frozen(self) -> list[str]:
        """The frozen parameters as a person reads them: path expressions, and a range of layers."""
        count = self.frozen_encoder_layers
        rest = [f"all but {', '.join(self.train)}"] if self.train else []
        return [*self.freeze, *rest, *([f"{LAYERS}[0:{count}]"] if count else [])]


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

    def __post_init__(self) -> None:
        check_fields(self)


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
      optimizer: one of `config.optimizers`, with its schedule over all phases.
      loss: cross-entropy, with label smoothing or z-loss if asked for.
      warm_start: None starts from random parameters.
      model_overrides: fields of the model's configuration to replace.
    """

    name: str
    model: str
    size: str
    objective: str
    phases: Sequence[Phase]
    batch_size: Positive
    optimizer: Chosen = dataclasses.field(default_factory=AdamW)
    loss: Loss = PLAIN
    warm_start: WarmStart | None = None
    model_overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError("Stage.name", self.name, "must be usable as the name of a folder")
        if not self.phases:
            raise UserError("Stage.phases", list(self.phases), "a stage needs at least one phase")

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
      normalization: what a vocabulary to train does to text before it is cut into pieces; see
        `seqrecipes.data.normalization`.
      character_coverage: share of characters that get a piece of their own in it; SentencePiece
        takes 0.98 to 1.
      byte_fallback: it spells other characters as bytes instead of <unk>.
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
      skip_nonfinite: an update whose loss or gradient is not finite is never made. So many of them
        in a row are left out; one more stops the run, which may go on with another number.
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
    sequence_length: Annotated[int, Range(8)] = 512
    prepared: str = ""
    vocabulary: str = ""
    vocabulary_size: Annotated[int, Range(16)] = 150_000
    normalization: Normalization = "nmt_nfkc_joiners"
    character_coverage: Annotated[float, Range(0.98, 1)] = 0.9995
    byte_fallback: bool = False
    alpha: Annotated[float, Range(0, 1)] = 0.3
    temperature: Annotated[float, Range(1, also=0)] = 0.0
    seed: Annotated[int, Range(0, below=SEEDS)] = 0
    tasks: str = "tasks.pretrain"
    partitioning: Partitioning = dataclasses.field(default_factory=Partitioning)
    checkpointing: Checkpointing = dataclasses.field(default_factory=Checkpointing)
    logits_tile: Positive = 128
    log_every: Positive = 50
    validate_every: Positive = 5_000
    skip_nonfinite: Count = 0
    validation_examples: Count = 4_096
    shared: Sequence[str] = ()
    probes: Sequence[Finetuning] = ()
    probe_every: Count = 0
    predictions: Count = 0
    export_hf: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.stages:
            raise UserError("Recipe.stages", list(self.stages), "name at least one stage")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise UserError("Recipe.stages", names, "every stage needs a name of its own")
        if self.seed + len(names) > SEEDS:
            remedy = f"must be at most {SEEDS - len(names):,}: stage n has this seed + n"
            raise UserError("Recipe.seed", self.seed, remedy)
        if self.prepared and not self.vocabulary:
            raise UserError(
                "Recipe.vocabulary",
                self.vocabulary,
                f"name the one that {self.prepared} was prepared with",
            )
        if bool(self.probes) != bool(self.probe_every):
            raise UserError(
                "Recipe.probe_every",
                self.probe_every,
                "is the number of steps between probes where the recipe has any, else 0",
            )
        sets = [probe.set for probe in self.probes]
        if len(set(sets)) < len(sets):
            raise UserError("Recipe.probes", sets, "name every set once")

    @property
    def smoothing(self) -> float:
        """The exponent of language shares: 1 / temperature where that is set, else alpha."""
        return 1 / self.temperature if self.temperature else self.alpha

    def index(self, name: str) -> int:
        """Position of a stage."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            remedy = f"the recipe's stages are {', '.join(names)}{did_you_mean(name, names)}"
            raise UserError("--stage", name, remedy)
        return names.index(name)


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A pre-training to run: the configurable `train` of gin files.

    Attributes:
      recipe: what to train.
      model_dir: the run's folder.
    """

    recipe: Recipe
    model_dir: str

    def __post_init__(self) -> None:
        check_fields(self, "train")
        if not self.model_dir:
            raise UserError("train.model_dir", self.model_dir, "name a folder")


_CONFIGURABLES = (Recipe, Stage, Phase, WarmStart, Loss, Partitioning, Checkpointing)
for _configurable in (*_CONFIGURABLES, *OPTIMIZERS.values()):
    gin.external_configurable(_configurable)
train = gin.external_configurable(Pretraining, "train")
