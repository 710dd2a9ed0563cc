"""How arrays lie on devices: a mesh of data, fsdp and tensor axes, and rules that fill it.

The mesh changes speed and memory, never the mathematics. Parameters get logical axes by rules over
their paths (`models/axes.py`), logical axes get mesh axes by `Partitioning.axis_rules`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from seqrecipes import tree
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models.axes import PARAMETER_AXES

# From a nested dictionary of shapes to {path: sharding}.
Placement = Callable[[tree.Tree], Mapping[str, jax.sharding.Sharding]]

BATCH_AXES = ("data", "fsdp")


def mesh(partitioning: Partitioning, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over these devices, by default all of all processes.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count, rest = len(devices), partitioning.fsdp * partitioning.tensor
    data = count // rest if partitioning.data == -1 else partitioning.data
    if data * rest != count:
        raise UserError(
            "Partitioning",
            f"data={partitioning.data} fsdp={partitioning.fsdp} tensor={partitioning.tensor}",
            f"the axes must multiply to the {count} devices",
        )
    return jax.make_mesh(
        (data, partitioning.fsdp, partitioning.tensor),
        ("data", "fsdp", "tensor"),
        (AxisType.Auto,) * 3,
        devices=devices,
    )


def parameter_shardings(
    partitioning: Partitioning, shapes: tree.Tree, mesh: Mesh
) -> dict[str, NamedSharding]:
    """{path: sharding} for a tree of arrays or shapes.

    Raises:
      UserError: a rule names another number of axes than the parameter has, or a mesh axis does
        not divide its dimension.
    """
    leaves = tree.flatten(shapes)
    rules = partitioning.parameter_rules or PARAMETER_AXES
    axes = tree.first_match(rules, leaves, field="Partitioning.parameter_rules")
    return {
        path: NamedSharding(mesh, _spec(partitioning, path, leaf.shape, axes[path], mesh))
        for path, leaf in leaves.items()
    }


def _spec(
    partitioning: Partitioning,
    path: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    mesh: Mesh,
) -> PartitionSpec:
    if len(axes) != len(shape):
        raise UserError(
            "Partitioning.parameter_rules",
            axes,
            f"{path} has the shape {shape}, name each axis",
        )
    spec = nn.logical_to_mesh_axes(axes, partitioning.axis_rules) or PartitionSpec()
    for name, size, entry in zip(axes, shape, spec, strict=True):
        if size % (parts := _parts(entry, mesh)):
            raise UserError(
                "Partitioning",
                dict(mesh.shape),
                f"{path} {shape}: axis '{name}' of size {size} cannot be split {parts} ways; "
                f"choose a smaller {entry} axis, or another size",
            )
    return spec


def moment_sharding(
    partitioning: Partitioning, parameter: NamedSharding, shape: tuple[int, ...]
) -> NamedSharding:
    """Where a parameter's moments lie: as the parameter, and over `data` too with ZeRO-1."""
    mesh = parameter.mesh
    assert isinstance(mesh, Mesh)
    entries = [*parameter.spec, *[None] * (len(shape) - len(parameter.spec))]
    if partitioning.zero1 and mesh.shape["data"] > 1:
        for i, (size, entry) in enumerate(zip(shape, entries, strict=True)):
            if size % (_parts(entry, mesh) * mesh.shape["data"]) == 0:
                entries[i] = (*_names(entry), "data")
                break
    return NamedSharding(mesh, PartitionSpec(*entries))


@contextlib.contextmanager
def on(partitioning: Partitioning, mesh: Mesh) -> Iterator[None]:
    """Gives logical axis names inside models their meaning on this mesh."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(partitioning.axis_rules):
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
