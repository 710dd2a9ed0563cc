"""How arrays lie on devices: a mesh of data, fsdp and tensor axes, and rules that fill it.

The mesh changes speed and memory, never the mathematics. Parameters get logical axes by rules over
their paths (`models/axes.py`), logical axes get mesh axes by `Partitioning.axis_rules`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from seqrecipes import tree
from seqrecipes.errors import UserError
from seqrecipes.models.axes import PARAMETER_AXES

# From a nested dictionary of shapes to {path: sharding}.
Placement = Callable[[tree.Tree], Mapping[str, jax.sharding.Sharding]]

BATCH_AXES = ("data", "fsdp")

AXIS_RULES: tuple[tuple[str, str | tuple[str, ...]], ...] = (
    ("batch", BATCH_AXES),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("mlp", "tensor"),
    ("embed", "fsdp"),
)


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
      parameter_rules: (regular expression over parameter paths, logical axes), first match wins.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    zero1: bool = True
    micro_batches: int = 1
    axis_rules: tuple[tuple[str, Any], ...] = AXIS_RULES
    parameter_rules: tuple[tuple[str, tuple[str | None, ...]], ...] = PARAMETER_AXES

    def __post_init__(self) -> None:
        for field in ("fsdp", "tensor", "micro_batches"):
            if getattr(self, field) < 1:
                raise UserError(f"Partitioning.{field}", getattr(self, field), "must be at least 1")
        if self.data < 1 and self.data != -1:
            raise UserError(
                "Partitioning.data", self.data, "must be at least 1, or -1 for the rest"
            )

    def mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
        """The mesh over these devices, by default all of all processes.

        Raises:
          UserError: the axes do not multiply to the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        count, rest = len(devices), self.fsdp * self.tensor
        data = count // rest if self.data == -1 else self.data
        if data * rest != count:
            raise UserError(
                "Partitioning",
                f"data={self.data} fsdp={self.fsdp} tensor={self.tensor}",
                f"the axes must multiply to the {count} devices",
            )
        return jax.make_mesh(
            (data, self.fsdp, self.tensor),
            ("data", "fsdp", "tensor"),
            (AxisType.Auto,) * 3,
            devices=devices,
        )

    def parameter_shardings(self, shapes: tree.Tree, mesh: Mesh) -> dict[str, NamedSharding]:
        """{path: sharding} for a tree of arrays or shapes.

        Raises:
          UserError: a rule names another number of axes than the parameter has, or a mesh axis does
            not divide its dimension.
        """
        leaves = tree.flatten(shapes)
        axes = tree.first_match(self.parameter_rules, leaves, field="Partitioning.parameter_rules")
        return {
            path: NamedSharding(mesh, self._spec(path, leaf.shape, axes[path], mesh))
            for path, leaf in leaves.items()
        }

    def placement(self, mesh: Mesh | None = None) -> Placement:
        """`parameter_shardings` on a mesh, by default that over all devices."""
        return functools.partial(self.parameter_shardings, mesh=mesh or self.mesh())

    def _spec(
        self, path: str, shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Mesh
    ) -> PartitionSpec:
        if len(axes) != len(shape):
            raise UserError(
                "Partitioning.parameter_rules",
                axes,
                f"{path} has the shape {shape}, name each axis",
            )
        spec = nn.logical_to_mesh_axes(axes, self.axis_rules) or PartitionSpec()
        for name, size, entry in zip(axes, shape, spec, strict=True):
            if size % (parts := _parts(entry, mesh)):
                raise UserError(
                    "Partitioning",
                    dict(mesh.shape),
                    f"{path} {shape}: axis '{name}' of size {size} cannot be split {parts} ways; "
                    f"choose a smaller {entry} axis, or another size",
                )
        return spec

    def moment_sharding(self, parameter: NamedSharding, shape: tuple[int, ...]) -> NamedSharding:
        """Where a parameter's moments lie: as the parameter, and over `data` too with ZeRO-1."""
        mesh = parameter.mesh
        assert isinstance(mesh, Mesh)
        entries = [*parameter.spec, *[None] * (len(shape) - len(parameter.spec))]
        if self.zero1 and mesh.shape["data"] > 1:
            for i, (size, entry) in enumerate(zip(shape, entries, strict=True)):
                if size % (_parts(entry, mesh) * mesh.shape["data"]) == 0:
                    entries[i] = (*_names(entry), "data")
                    break
        return NamedSharding(mesh, PartitionSpec(*entries))

    @contextlib.contextmanager
    def on(self, mesh: Mesh) -> Iterator[None]:
        """Gives logical axis names inside models their meaning on this mesh."""
        with jax.set_mesh(mesh), nn.logical_axis_rules(self.axis_rules):
            yield


def check_batch(batch_size: int, micro_batches: int, mesh: Mesh, *, field: str) -> None:
    """Refuses a batch that micro-batches and devices do not divide."""
    parts = micro_batches * batch_shards(mesh)
    if batch_size < 1 or batch_size % parts:
        nearest = max(1, round(batch_size / parts)) * parts
        raise UserError(
            field,
            batch_size,
            f"must be a multiple of micro_batches x data x fsdp = {micro_batches} x "
            f"{mesh.shape['data']} x {mesh.shape['fsdp']} = {parts}, e.g. {nearest}",
        )


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts into which the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def even_batch(batch_size: int, mesh: Mesh | AbstractMesh) -> int:
    """The smallest batch from this size on that the mesh splits evenly."""
    shards = batch_shards(mesh)
    return -(-batch_size // shards) * shards


def batch_groups() -> int:
    """`batch_shards` of the mesh in use; 1 if there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else batch_shards(mesh)


def laid_out(
    make: Callable[..., Mapping[str, Any]], placement: Placement, *arguments: Any
) -> dict[str, Any]:
    """The nested dictionary that a function makes of arrays, each array where it belongs."""
    shardings = tree.unflatten(placement(jax.eval_shape(make, *arguments)))
    return jax.jit(make, out_shardings=shardings)(*arguments)


def replicated(mesh: Mesh) -> NamedSharding:
    """One whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the data and fsdp axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in indices if index is not None]
    return np.unique(np.concatenate(rows))


def global_batch(local: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh) -> dict[str, Any]:
    """Global arrays from the rows that `local_rows` names, in that order."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, array, (batch_size, *array.shape[1:])
        )
        for name, array in local.items()
    }


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _parts(entry: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    return math.prod(mesh.shape[name] for name in _names(entry))
