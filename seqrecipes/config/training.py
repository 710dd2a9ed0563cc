"""How a model is trained, beside its recipe: optimizer, loss, devices, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from seqrecipes.config.check import Range, check_fields
from seqrecipes.errors import UserError

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh, NamedSharding

    from seqrecipes.training.partitioning import Placement
    from seqrecipes.tree import Tree

# No decay on biases and LayerNorm.
DECAY_RULES: tuple[tuple[str, bool], ...] = ((r".*(bias|scale)$", False), (r".*", True))

AXIS_RULES: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
)

Positive = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0)]
Momentum = Annotated[float, Range(0, below=1)]


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW, warm-up, linear decay to a floor (Soltan et al. 2023, appendix E and Table 10).

    The paper gives the schedules; betas and weight decay are those of its fine-tuning (Table 10),
    epsilon and clipping are common practice.

    Attributes:
      peak: learning rate at the end of the warm-up.
      warmup_steps: W.
      warmup: 'linear', or 'exponential', which multiplies by the same factor at every update.
      start: learning rate before the first update.
      floor: learning rate of the last update.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled, times the learning rate.
      clip_norm: largest global norm of the trainable part's gradient; 0 does not clip.
      decay_rules: (regular expression over parameter paths, whether to decay), first match wins.
      multipliers: (regular expression over parameter paths, factor on their learning rate), first
        match wins and what matches none has the factor 1. The decay, being times the learning rate,
        is multiplied with it.
    """

    peak: Annotated[float, Range(above=0)] = 1.5e-4
    warmup_steps: Annotated[int, Range(0)] = 5_000
    warmup: Literal["linear", "exponential"] = "linear"
    start: NotNegative = 0.0
    floor: NotNegative = 5e-6
    beta1: Momentum = 0.9
    beta2: Momentum = 0.99
    epsilon: NotNegative = 1e-8
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
            raise UserError(
                "AdamW.peak", self.peak, f"must be at least AdamW.floor = {self.floor:g}"
            )
        if self.start > self.peak or (self.warmup == "exponential" and not self.start):
            remedy = f"lies below AdamW.peak = {self.peak}"
            if self.warmup == "exponential":
                remedy += "; an exponential warm-up begins above 0, e.g. 1e-7"
            raise UserError("AdamW.start", self.start, remedy)


@dataclasses.dataclass(frozen=True)
class Loss:
    """The function to be minimised: cross-entropy, with what is added to it.

    Attributes:
      label_smoothing: share of a target's probability that goes to all other ids alike (Szegedy et
        al. 2016, section 7).
      z_loss: factor on the squared logarithm of the softmax's denominator, which keeps logits from
        drifting away together (Chowdhery et al. 2022, section 5; 1e-4 there).
    """

    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    z_loss: NotNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


PLAIN = Loss()


@dataclasses.dataclass(frozen=True)
class Partitioning:
    """A mesh and how the training state is laid out on it.

    Attributes:
      data: devices along the data axis; -1 takes all that the other axes leave.
      fsdp: devices that share each parameter, its gradient and its moments.
      tensor: devices that split heads, feed-forward and vocabulary.
      zero1: spread the optimizer's moments over the data axis too (ZeRO stage 1, as Soltan et al.
        2023, appendix E). A leaf without a dimension that the axis divides stays whole.
      micro_batches: parts of a batch whose gradients are added up one after the other, in phases
        that do not say otherwise.
      axis_rules: (logical axis, mesh axis or axes) in order of precedence.
      parameter_rules: (regular expression over parameter paths, logical axes), first match wins;
        empty takes those of `seqrecipes.models.axes`.
    """

    data: Annotated[int, Range(1, also=-1)] = -1
    fsdp: Positive = 1
    tensor: Positive = 1
    zero1: bool = True
    micro_batches: Positive = 1
    axis_rules: tuple[tuple[str, str | tuple[str, ...]], ...] = AXIS_RULES
    parameter_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    # What needs JAX is in `seqrecipes.training.partitioning`, and imported when it is called.

    def mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over these devices, see `partitioning.mesh`."""
        from seqrecipes.training import partitioning

        return partitioning.mesh(self, devices)

    def parameter_shardings(self, shapes: Tree, mesh: Mesh) -> dict[str, NamedSharding]:
        """{path: sharding} for a tree of shapes, see `partitioning.parameter_shardings`."""
        from seqrecipes.training import partitioning

        return partitioning.parameter_shardings(self, shapes, mesh)

    def placement(self, mesh: Mesh | None = None) -> Placement:
        """`parameter_shardings` on a mesh, by default that over all devices."""
        return functools.partial(self.parameter_shardings, mesh=mesh or self.mesh())

    def moment_sharding(self, parameter: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
        """Where a parameter's moments lie, see `partitioning.moment_sharding`."""
        from seqrecipes.training import partitioning

        return partitioning.moment_sharding(self, parameter, shape)

    def on(self, mesh: Mesh) -> contextlib.AbstractContextManager[None]:
        """Gives logical axis names inside models their meaning on this mesh."""
        from seqrecipes.training import partitioning

        return partitioning.on(self, mesh)


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """When to save and what to keep.

    Attributes:
      every: steps between checkpoints.
      keep: number of latest checkpoints kept.
      keep_every: checkpoints at multiples of this step are kept for good; 0 keeps none.
      best: a metric of validation and 'max' or 'min'. There is a checkpoint of every validation
        then, and the best one is kept beside the latest; of equally good ones the latest.
    """

    every: Positive = 5_000
    keep: Positive = 2
    keep_every: Annotated[int, Range(0)] = 0
    best: Annotated[tuple[str, Literal["max", "min"]] | None, "write a pair: ('f1', 'max')"] = None

    def __post_init__(self) -> None:
        check_fields(self)
