"""Memory that an update needs on each device, from its compiled program; nothing is allocated.

XLA compiles the update for abstract arrays and says what the program takes as a whole. Parameters,
moments, gradients and logits follow from shapes and shardings; activations are what remains.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.models import Labeller
from seqrecipes.training import partitioning as parts
from seqrecipes.training import programs, slices
from seqrecipes.training.loop import Training
from seqrecipes.training.phases import Span


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters: float32, trainable and frozen.
      moments: the optimizer's state; AdamW's is two float32 numbers a trainable parameter.
      gradients: float32, of the trainable parameters.
      logits: of one tile of positions and of one micro-batch, and their gradient, float32.
      activations: all else: states kept for the backward pass, scratch space, the batch. XLA puts
        buffers that are not needed at one time into one place, so that this is less than
        their sum.
    """

    parameters: int
    moments: int
    gradients: int
    logits: int
    activations: int

    @property
    def total(self) -> int:
        """All kinds together: what the compiled program takes."""
        return sum(dataclasses.asdict(self).values())


KINDS = tuple(field.name for field in dataclasses.fields(Memory))


class TooLarge(Exception):
    """The compiler itself refused the program; says how much it wanted, if it told."""


def of_step(training: Training, span: Span, mesh: Mesh) -> Memory:
    """Memory of the update of a phase, compiled for a mesh.

    Args:
      training: the stage; its micro-batches count.
      span: the phase.
      mesh: devices that are present, or a topology's that are not.

    Raises:
      TooLarge: the mesh's devices have a compiler that knows their memory, and it is too little.
    """
    state = training.abstract_state(span, mesh)
    try:
        stats = programs.lower(training, span, mesh).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        told = re.search(r"Used [\d.]+\w? of [\d.]+\w? \w+", str(error))
        raise TooLarge(told[0] if told else str(error).split("\n")[0]) from error
    # Outputs take the place of the donated arguments.
    whole = (
        stats.argument_size_in_bytes
        + stats.output_size_in_bytes
        - stats.alias_size_in_bytes
        + stats.temp_size_in_bytes
        + stats.generated_code_size_in_bytes
    )
    known = {
        "parameters": sum(map(_bytes, jax.tree.leaves(state.params))),
        "moments": sum(map(_bytes, jax.tree.leaves(state.optimizer))),
        "gradients": _gradients(state.params, span),
        "logits": _logits(training, span, mesh),
    }
    return Memory(**known, activations=whole - sum(known.values()))


def _bytes(leaf: jax.ShapeDtypeStruct, rows: slice | None = None) -> int:
    """Bytes on one device of a sharded leaf, or of some rows of it."""
    shape = leaf.shape if rows is None else (rows.stop - rows.start, *leaf.shape[1:])
    assert leaf.sharding is not None
    return math.prod(leaf.sharding.shard_shape(shape)) * leaf.dtype.itemsize


def _gradients(params: tree.Tree, span: Span) -> int:
    leaves = tree.flatten(params)
    named = map(slices.parse, span.cohorts)
    return sum(_bytes(leaves[path], rows) for path, rows in named)


def _logits(training: Training, span: Span, mesh: Mesh) -> int:
    model = training.model
    if isinstance(model, Labeller):
        widths = {head.targets: head.labels for head in model.shapes}
    else:
        widths = {model.TARGETS: model.config.vocab_size // mesh.shape["tensor"]}
    tiles = {name: min(training.features[name], training.logits_tile) for name in widths}
    largest = max(tiles[name] * width for name, width in widths.items())
    return 2 * 4 * micro_batch(training, span, mesh) * largest


def micro_batch(training: Training, span: Span, mesh: Mesh) -> int:
    """Examples that a device has at one time in a phase."""
    return training.batch_size // (training.micro_batches(span) * parts.batch_shards(mesh))


def with_micro_batch(training: Training, span: Span, mesh: Mesh, examples: int) -> Training:
    """The same updates, in a phase with so many examples on a device at one time."""
    count = training.batch_size // (examples * parts.batch_shards(mesh))
    phases = list(training.phases)
    phases[span.index] = dataclasses.replace(phases[span.index], micro_batches=count)
    return dataclasses.replace(training, phases=phases)


def largest_micro_batch(
    training: Training, span: Span, mesh: Mesh, limit: int, known: Mapping[int, int | None]
) -> int:
    """The most examples that a device can have at one time; 0 if not even one fits.

    Memory grows with the examples in a straight line, nearly. Two sizes say where it meets the
    limit, and what stands there is compiled and measured.

    Args:
      training: the stage.
      span: the phase.
      mesh: devices.
      limit: bytes of a device that may be taken.
      known: {examples: bytes of the compiled program, or None if its compiler refused it}.
    """
    whole = training.batch_size // parts.batch_shards(mesh)
    sizes = [size for size in range(1, whole + 1) if whole % size == 0]
    measured = dict(known)

    def fits(size: int) -> bool:
        if size not in measured:
            try:
                candidate = with_micro_batch(training, span, mesh, size)
                measured[size] = of_step(candidate, span, mesh).total
            except TooLarge:
                measured[size] = None
        taken = measured[size]
        return taken is not None and taken <= limit

    low, high = -1, len(sizes)  # the size at `low` fits, the one at `high` does not
    while high - low > 1:
        guess = _guess({s: b for s, b in measured.items() if b is not None}, limit)
        position = max((i for i, size in enumerate(sizes) if size <= guess), default=0)
        position = min(max(position, low + 1), high - 1)
        low, high = (position, high) if fits(sizes[position]) else (low, position)
    return sizes[low] if low >= 0 else 0


def _guess(measured: Mapping[int, int], limit: int) -> float:
    """Examples at which memory meets the limit, by the line through the two largest sizes."""
    if len(measured) < 2:
        return 1.0 if 1 not in measured else 2.0
    (a, bytes_a), (b, bytes_b) = sorted(measured.items())[-2:]
    slope = (bytes_b - bytes_a) / (b - a)
    return b + (limit - bytes_b) / slope if slope > 0 else float("inf")
