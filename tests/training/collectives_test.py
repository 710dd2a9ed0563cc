"""What devices send to each other in an update: on each mesh what arithmetic says, in bytes."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from seqrecipes import tree
from seqrecipes.config.training import Partitioning
from seqrecipes.training import programs
from tests.training import stages
from tests.training.stages import FROZEN, MLM, ROWS, SEQ2SEQ, UNFROZEN, VOCABULARY

DEVICES = 8

DATA = Partitioning(data=8, zero1=False)
ZERO1 = Partitioning(data=8)
FSDP = Partitioning(data=1, fsdp=8)
TENSOR = Partitioning(data=4, tensor=2)

# (kind, type, shape) -> how often in an update.
Sent = Counter[tuple[str, str, tuple[int, ...]]]


def sent(kind: str, phase: int, partitioning: Partitioning) -> Sent:
    compiled = stages.compiled(kind, phase, devices=8, partitioning=partitioning)
    result: Sent = Counter()
    for each in programs.collectives(compiled.as_text()):
        for array in each.arrays:
            result[each.kind, array.dtype, array.shape] += each.times
    return result


def of_vocabulary(shape: tuple[int, ...]) -> bool:
    return shape[:1] == (VOCABULARY,)


def nbytes(all_sent: Sent, kind: str, *, vocabulary: bool) -> int:
    """Bytes of the float32 arrays, without scalars: those with a row for each id, or the others."""
    return 4 * sum(
        times * math.prod(shape)
        for (each, dtype, shape), times in all_sent.items()
        if each == kind and dtype == "f32" and shape and of_vocabulary(shape) == vocabulary
    )


def check_gradients(kind: str, phase: int, all_sent: Sent) -> None:
    """Every gradient is summed over the devices once, however many tiles and uses it has."""
    expected = Counter[bool]()
    for path, leaf in stages.trained(kind, phase).items():
        size = math.prod(leaf.shape)
        if path == "encoder/embedding/position/embedding":
            # Only positions that a batch has get a gradient.
            size = stages.SOURCE * stages.stage(kind).model.config.hidden_size
        expected[of_vocabulary(leaf.shape)] += 4 * size
    for vocabulary in (True, False):
        assert nbytes(all_sent, "all-reduce", vocabulary=vocabulary) == expected[vocabulary]


def scalars(all_sent: Sent) -> int:
    return sum(times for (_, _, shape), times in all_sent.items() if not shape)


@pytest.mark.parametrize(("kind", "phase"), [(MLM, FROZEN), (SEQ2SEQ, FROZEN), (SEQ2SEQ, UNFROZEN)])
def test_data_parallel_devices_sum_the_gradients_of_what_trains(kind: str, phase: int) -> None:
    all_sent = sent(kind, phase, DATA)
    assert {name for name, _, _ in all_sent} == {"all-reduce"}
    check_gradients(kind, phase, all_sent)
    # Sums and counts of the loss, for each tile; tokens and padding.
    assert scalars(all_sent) < 20


def test_zero1_sends_what_was_updated_besides() -> None:
    all_sent, trained = sent(MLM, FROZEN, ZERO1), stages.trained(MLM, FROZEN)
    check_gradients(MLM, FROZEN, all_sent)
    updated = sum(math.prod(leaf.shape) for leaf in trained.values())
    gathered = [nbytes(all_sent, "all-gather", vocabulary=v) for v in (True, False)]
    assert sum(gathered) == 4 * updated
    # Each device has a part of each gradient's norm.
    assert scalars(all_sent) < 20 + len(trained)


def test_fsdp_gathers_frozen_weights_once_and_trained_ones_again_for_the_backward_pass() -> None:
    all_sent = sent(SEQ2SEQ, FROZEN, FSDP)
    check_gradients(SEQ2SEQ, FROZEN, all_sent)
    size = {
        path: math.prod(leaf.shape)
        for path, leaf in tree.flatten(stages.stage(SEQ2SEQ).shapes).items()
        if path.endswith("/kernel")
    }
    expected = sum(n for path, n in size.items() if path.startswith("encoder"))
    for path, n in size.items():
        if path.startswith("decoder"):
            # Nothing below the memory trains: its keys and values have no gradient of their input.
            of_memory = "cross_attention/key" in path or "cross_attention/value" in path
            expected += n if of_memory else 2 * n
    config = stages.stage(SEQ2SEQ).model.config
    # Positions, as many as the encoder reads and all of the decoder's.
    expected += (stages.SOURCE + stages.TARGET) * config.hidden_size
    assert nbytes(all_sent, "all-gather", vocabulary=False) == 4 * expected


@pytest.mark.parametrize("kind", [MLM, SEQ2SEQ])
def test_a_split_vocabulary_is_never_gathered(kind: str) -> None:
    shard = VOCABULARY // 2
    width = stages.stage(kind).model.config.hidden_size
    shapes = {shape for _, _, shape in sent(kind, FROZEN, TENSOR)}
    assert not any(VOCABULARY in shape for shape in shapes)
    # The table's part and the bias's; logits are not among what is sent.
    assert {shape for shape in shapes if shard in shape} <= {(shard, width), (shard,)}


def test_the_tensor_axis_sums_a_frozen_layers_states_twice() -> None:
    all_sent = sent(SEQ2SEQ, FROZEN, TENSOR)
    width = stages.stage(SEQ2SEQ).model.config.hidden_size
    states, embedded = (
        (ROWS // 4, n, width) for n in (stages.SOURCE, stages.SOURCE + stages.TARGET)
    )
    # After attention and after the feed-forward, forward only; and the embeddings of both sides.
    assert all_sent["all-reduce", "f32", states] == 2 * stages.LAYERS
    assert all_sent["all-reduce", "f32", embedded] == 1
