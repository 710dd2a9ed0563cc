"""Optimizers and their learning-rate schedules, filled by gin.

A further optimizer is a dataclass here and a transformation in `seqrecipes.training.optimizer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from seqrecipes.config.check import Range, check_fields
from seqrecipes.errors import UserError

# No decay on biases and LayerNorm.
DECAY_RULES: tuple[tuple[str, bool], ...] = ((r".*(bias|scale)$", False), (r".*", True))

NotNegative = Annotated[float, Range(0)]
Momentum = Annotated[float, Range(0, below=1)]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Base class: learning-rate schedule, clipping, weight decay, rates by parameter.

    After the warm-up of W updates the learning rate of update t of T is

      linear        floor + (peak - floor) (T - t) / (T - W)
      cosine        floor + (peak - floor) (1 + cos(pi (t - W) / (T - W))) / 2
      inverse_sqrt  peak sqrt(W / t), and no less than the floor (Vaswani et al. 2017, section 5.3)
      wsd           peak; in the last D updates peak - (peak - floor) sqrt(1 - (T - t) / D)
                    (Haegele et al. 2024: warm-up, stable, decay by 1 - sqrt)
      constant      peak

    Attributes:
      peak: learning rate at the end of the warm-up.
      schedule: how it falls from there.
      warmup_steps: W.
      warmup: 'linear', or 'exponential', which multiplies by the same factor at every update.
      start: learning rate before the first update.
      floor: learning rate of the last update.
      decay_steps: D of the schedule 'wsd'; 0 for the others.
      weight_decay: decoupled, times the learning rate.
      clip_norm: largest global norm of the trainable part's gradient; 0 does not clip.
      decay_rules: (regular expression over parameter paths, whether to decay), first match wins.
      multipliers: (regular expression over parameter paths, factor on their learning rate), first
        match wins and what matches none has the factor 1. The decay, being times the learning rate,
        is multiplied with it.
    """

    peak: Annotated[float, Range(above=0)] = 1.5e-4
    schedule: Literal["linear", "cosine", "inverse_sqrt", "wsd", "constant"] = "linear"
    warmup_steps: Annotated[int, Range(0)] = 5_000
    warmup: Literal["linear", "exponential"] = "linear"
    start: NotNegative = 0.0
    floor: NotNegative = 5e-6
    decay_steps: Annotated[int, Range(0)] = 0
    weight_decay: NotNegative = 0.1
    clip_norm: NotNegative = 1.0
    decay_rules: Sequence[tuple[str, bool]] = DECAY_RULES
    multipliers: Annotated[
        Sequence[tuple[str, Annotated[float, Range(above=0)]]],
        "write a list of pairs: [('encoder', 0.1)]; factors are above 0, and what is not to train "
        "belongs into Phase.freeze",
    ] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.peak < self.floor:
            self.refuse("peak", f"must be at least {self.name}.floor = {self.floor:g}")
        if self.start > self.peak or (self.warmup == "exponential" and not self.start):
            remedy = f"lies below {self.name}.peak = {self.peak}"
            if self.warmup == "exponential":
                remedy += "; an exponential warm-up begins above 0, e.g. 1e-7"
            self.refuse("start", remedy)
        if self.schedule == "inverse_sqrt" and not self.warmup_steps:
            self.refuse("warmup_steps", "must be at least 1: inverse_sqrt falls from its end on")
        if self.schedule == "wsd" and not self.decay_steps:
            self.refuse("decay_steps", "must be at least 1 for wsd, e.g. a fifth of all updates")
        if self.schedule != "wsd" and self.decay_steps:
            self.refuse("decay_steps", f"is read by {self.name}.schedule = 'wsd' alone")

    @property
    def name(self) -> str:
        """The class's name, which gin files and errors use."""
        return type(self).__name__

    def refuse(self, field: str, remedy: str) -> None:
        """Raises the UserError of one of its fields."""
        raise UserError(f"{self.name}.{field}", getattr(self, field), remedy)

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.schedule} schedule with peak {self.peak:g}, {self.warmup} warm-up "
            f"of {self.warmup_steps:,}, floor {self.floor:g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Its name and fields."""
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """Loshchilov and Hutter 2019; the default.

    The learning rates are those of Soltan et al. 2023 (appendix E and Table 10); betas and weight
    decay are those of its fine-tuning, epsilon and clipping are common practice.

    Attributes:
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the root of the second moment.
    """

    beta1: Momentum = 0.9
    beta2: Momentum = 0.99
    epsilon: NotNegative = 1e-8


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Chen et al. 2023: the sign of a momentum; one moment, and so half of Adam's memory.

    Its authors take 3 to 10 times less learning rate than for AdamW, and as much more decay.

    Attributes:
      beta1: weight of the momentum against the gradient in what the sign is taken of.
      beta2: decay of the momentum.
    """

    beta1: Momentum = 0.9
    beta2: Momentum = 0.99


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Shazeer and Stern 2018: the second moment by rows and columns, almost no memory.

    Every layer of a stack is a matrix of its own. The defaults with `peak` 1e-2, `warmup_steps`
    10,000, `start` 1e-2 and the schedule 'inverse_sqrt' are T5's.

    Attributes:
      weight_decay: as of all optimizers; none in the paper.
      clip_norm: as of all optimizers; none in the paper, which has `clip_rms`.
      decay_rate: c; the second moment's decay at update t is 1 - t ** -c.
      clip_rms: largest root mean square of a matrix's update before the learning rate.
      relative: multiplies the learning rate by the root mean square of the matrix, 1e-3 at least.
      smallest_factored: matrices with a side shorter than this keep a whole second moment.
      epsilon: added to squared gradients.
    """

    weight_decay: NotNegative = 0.0
    clip_norm: NotNegative = 0.0
    decay_rate: Annotated[float, Range(above=0, below=1)] = 0.8
    clip_rms: Annotated[float, Range(least=1)] = 1.0
    relative: bool = True
    smallest_factored: Annotated[int, Range(1)] = 128
    epsilon: NotNegative = 1e-30


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Jordan et al. 2024: the matrices of the layers by orthogonalised momentum, the rest by Adam.

    An update has the root mean square `rms`, as AdamW's about has, so that one learning rate and
    decay serve both (Liu et al. 2025, section 2.2). Every layer of a stack is a matrix of its own.

    Attributes:
      momentum: decay of the momentum, which is Nesterov's.
      iterations: of Newton and Schulz.
      rms: root mean square of an orthogonalised update.
      beta1: Adam's, of what is no matrix of a layer.
      beta2: Adam's.
      epsilon: Adam's.
    """

    momentum: Momentum = 0.95
    iterations: Annotated[int, Range(1)] = 5
    rms: Annotated[float, Range(above=0)] = 0.2
    beta1: Momentum = 0.9
    beta2: Momentum = 0.99
    epsilon: NotNegative = 1e-8


OPTIMIZERS: dict[str, type[Optimizer]] = {
    each.__name__: each for each in (AdamW, Lion, Adafactor, Muon)
}


def complete(written: Mapping[str, Any]) -> dict[str, Any]:
    """What `to_dict` gave before some field came, with that field's default.

    A new field's default is what was done before there was the field.
    """
    return OPTIMIZERS[written.get("name", "AdamW")]().to_dict() | dict(written)


# How a field is declared that takes any of them.
Chosen = Annotated[
    Optimizer, f"name an optimizer: {', '.join(f'@{name}()' for name in OPTIMIZERS)}"
]
