"""Gradual unfreezing: an encoder that thaws by groups of layers, the highest first."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Partitioning
from seqrecipes.models import build
from seqrecipes.training.step import enter_phase, loss_sums, state_shardings
from tests.models import tiny
from tests.training import harness

DEVICES = 8

STACK = "encoder/stack/layers/"
KERNEL = f"{STACK}mlp/input/kernel"
BELOW = ("token_embedding", "encoder/embedding")
PHASES = (
    Phase(2, harness.FREEZE),
    Phase(2, BELOW, frozen_encoder_layers=3),
    Phase(2, BELOW, frozen_encoder_layers=1),
    Phase(1),
)
# Of the encoder's four layers.
FROZEN_LAYERS = (4, 3, 1, 0)
CONFIG = tiny.config(
    vocab_size=64,
    hidden_size=32,
    mlp_size=64,
    num_heads=4,
    encoder_layers=4,
    decoder_layers=1,
    tie_head=False,
)
BATCH = tiny.batch(CONFIG, rows=16)
# A large epsilon keeps Adam's first steps from being the sign of rounding errors.
ADAMW = AdamW(peak=1e-2, warmup_steps=1, floor=5e-3, epsilon=1e-3, clip_norm=0.5)
MESH = Partitioning(data=2, fsdp=2, tensor=2, micro_batches=2)


@functools.cache
def trained() -> harness.Result:
    return harness.run(build(CONFIG), BATCH, PHASES, ADAMW, Partitioning())


@functools.cache
def snapshots() -> list[dict[str, np.ndarray]]:
    """Parameters at the start and at the end of every phase."""
    start = tree.flatten(harness.initial(build(CONFIG)))
    return [start, *trained().ends]


def frozen_rows(path: str, value: np.ndarray, index: int) -> int:
    """How many rows of a leaf a phase freezes, the lowest."""
    if path.startswith(STACK):
        return FROZEN_LAYERS[index]
    return len(value) if any(path.startswith(f"{p}/") for p in PHASES[index].freeze) else 0


@pytest.mark.parametrize("index", range(len(PHASES)))
def test_exactly_the_frozen_layers_are_bit_identical(index: int) -> None:
    before, after = snapshots()[index], snapshots()[index + 1]
    for path, value in before.items():
        count = frozen_rows(path, value, index)
        np.testing.assert_array_equal(after[path][:count], value[:count], err_msg=path)
        if "attention/key/bias" in path:
            # The softmax is blind to what all keys share: its gradient is rounding alone.
            continue
        layered = path.startswith(STACK)
        rows = [after[path][i] != value[i] for i in range(count, len(value))]
        assert all(map(np.any, rows)) if layered else count or np.any(rows), path


@pytest.mark.parametrize(
    ("index", "held"),
    [
        (0, {}),
        (1, {"1": "[3:4]"}),
        (2, {"1": "[3:4]", "2": "[1:3]"}),
        (3, {"1": "[3:4]", "2": "[1:3]", "3": "[0:1]"}),
    ],
)
def test_moments_are_those_of_the_trainable_layers_alone(index: int, held: Any) -> None:
    optimizer = trained().states[index].optimizer
    found = {
        cohort: name.removeprefix(KERNEL)
        for cohort, adam in optimizer.items()
        for name in adam.mu
        if name.startswith(KERNEL)
    }
    assert found == held
    size = sum(
        value[frozen_rows(path, value, index) :].size for path, value in snapshots()[0].items()
    )
    for which in ("mu", "nu"):
        leaves = [leaf for adam in optimizer.values() for leaf in getattr(adam, which).values()]
        assert sum(leaf.size for leaf in leaves) == size


def test_counts_of_cohorts() -> None:
    counts = [
        {cohort: int(adam.count) for cohort, adam in state.optimizer.items()}
        for state in trained().states
    ]
    assert counts == [
        {"0": 2},
        {"0": 4, "1": 2},
        {"0": 6, "1": 4, "2": 2},
        {"0": 7, "1": 5, "2": 3, "3": 1},
    ]


def test_what_thaws_starts_with_fresh_moments_and_the_rest_keeps_its_own() -> None:
    before = trained().states[1]
    span = harness.place(before.params, PHASES)[2]
    entered = enter_phase(before, span, ADAMW)
    fresh = entered.optimizer["2"]
    assert set(fresh.mu) == {f"{path}[1:3]" for path in snapshots()[0] if path.startswith(STACK)}
    assert int(fresh.count) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((fresh.mu, fresh.nu)))
    for cohort in ("0", "1"):
        # Fails on trees of different structure, too.
        jax.tree.map(
            np.testing.assert_array_equal, entered.optimizer[cohort], before.optimizer[cohort]
        )
    jax.tree.map(np.testing.assert_array_equal, entered.params, before.params)
    again = enter_phase(trained().states[2], span, ADAMW)
    jax.tree.map(np.testing.assert_array_equal, again, trained().states[2])


@pytest.mark.slow
def test_a_mesh_and_micro_batches_train_as_one_device_does() -> None:
    """Where some layers train and others do not; all or none of them: mesh_test.py."""
    expected = trained()
    result = harness.run(
        build(CONFIG),
        BATCH,
        PHASES,
        ADAMW,
        MESH,
        mesh=MESH.mesh(),
        start=expected.states[0],
        only=slice(1, 3),
    )
    for ours, theirs in zip(result.metrics, expected.metrics[2:6], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for index, end in enumerate(result.ends, 1):
        for path, value in expected.ends[index].items():
            np.testing.assert_allclose(end[path], value, rtol=0, atol=3e-6, err_msg=path)
            count = frozen_rows(path, value, index)
            np.testing.assert_array_equal(end[path][:count], snapshots()[0][path][:count])


@pytest.mark.parametrize(
    ("partitioning", "lowest", "highest"),
    [(Partitioning(data=8), (2, 4, 64), (1, 4, 64)), (MESH, (1, 16, 32), (1, 8, 32))],
)
def test_moments_of_slices_are_spread_by_their_own_shape(
    partitioning: Partitioning, lowest: tuple[int, ...], highest: tuple[int, ...]
) -> None:
    """Of layers 1 and 2, and of layer 3: rows, 32 and 64."""
    state = trained().state
    layout = state_shardings(state, partitioning, partitioning.mesh())
    for cohort, name, shape, expected in (
        ("2", f"{KERNEL}[1:3]", (2, 32, 64), lowest),
        ("1", f"{KERNEL}[3:4]", (1, 32, 64), highest),
    ):
        assert state.optimizer[cohort].mu[name].shape == shape
        assert layout.optimizer[cohort].mu[name].shard_shape(shape) == expected


KINDS: list[tuple[dict[str, Any], float]] = [
    ({"decoder_layers": 0, "norm": "post"}, 1e-5),
    ({"attention_fusion": "per_layer", "remat": "full"}, 1e-5),
    (
        {"attention_fusion": "shared", "scan_layers": False, "remat": "dots", "encoder_layers": 2},
        1e-5,
    ),
    ({"decoder_layers": 0, "dtype": "bfloat16"}, 3e-2),
]


@pytest.mark.parametrize(("kind", "tolerance"), KINDS)
def test_the_gradient_is_the_plain_models_without_the_frozen_layers(
    kind: dict[str, Any], tolerance: float
) -> None:
    model = build(tiny.config(**{"encoder_layers": 3, "decoder_layers": 1} | kind))
    batch = tiny.batch(model.config, rows=4)
    params = tiny.random_params(model, dtype="float32")
    adamw = AdamW(warmup_steps=0, clip_norm=1e-3, beta1=0.0)
    frozen = model.config.encoder_layers - 1
    (span,) = harness.place(params, (Phase(1, BELOW, frozen_encoder_layers=frozen),))
    state = enter_phase(harness.fresh_state(params), span, adamw)
    step = harness.compiled_step(model, adamw, span, total_steps=1, micro_batches=2)
    state, metrics = step(state, batch)

    def mean_loss(p: Any) -> jax.Array:
        sums = loss_sums(model, p, batch, None, None, 8)
        return sums.objective / sums.tokens

    plain = tree.flatten(jax.jit(jax.grad(mean_loss))(params))
    expected = {
        f"{path}[{frozen}:{frozen + 1}]": g[frozen:]
        for path, g in plain.items()
        if path.startswith(STACK)
    } | {path: g for path, g in plain.items() if not path.startswith((STACK, *BELOW))}
    norm = tiny.norm_of(expected)
    assert tiny.norm_of(plain) > 1.01 * norm
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=10 * tolerance)
    # Without momentum the first moment is the gradient itself, clipped.
    found = state.optimizer["0"].mu
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        error = tiny.norm_of({"": np.asarray(found[name]) * (norm / 1e-3) - np.asarray(gradient)})
        assert error < tolerance * norm, name


def loops(jaxpr: Any) -> list[int]:
    """Lengths of all loops in a program, those within others included."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            found.append(equation.params["length"])
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                # A closed program holds a plain one.
                if hasattr(inner := getattr(inner, "jaxpr", inner), "eqns"):
                    found += loops(inner)
    return found


@pytest.mark.parametrize(("frozen", "expected"), [(0, [7, 7]), (4, [3, 3, 4])])
def test_no_loop_goes_back_over_the_frozen_layers(frozen: int, expected: list[int]) -> None:
    model = build(tiny.config(encoder_layers=7, decoder_layers=0))
    params = tiny.random_params(model, dtype="float32")
    (span,) = harness.place(params, (Phase(1, BELOW, frozen_encoder_layers=frozen),))
    adamw = AdamW(warmup_steps=0)
    state = enter_phase(harness.fresh_state(params), span, adamw)
    step = harness.compiled_step(model, adamw, span, total_steps=1)
    program = jax.make_jaxpr(step)(state, tiny.batch(model.config)).jaxpr
    # One loop forth and one back; that over tiles of logits is of length 1.
    assert sorted(length for length in loops(program) if length > 1) == expected
