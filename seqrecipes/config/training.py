"""How a model is trained, beside its recipe and optimizer: loss, devices, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from seqrecipes.config.check import Range, check_fields

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh, NamedSharding

    from seqrecipes.training.partitioning import Placement
    from seqrecipes.tree import Tree

AXIS_RULES: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
)

Positive = Annotated[int, Range(1)]
NotNegative = Annotated[float, Range(0)]


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
