"""Schedules by their formulas; Lion, Adafactor and Muon against optax, matrix by matrix."""

from __future__ import annotations

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqrecipes import tree
from seqrecipes.config.optimizers import (
    OPTIMIZERS,
    Adafactor,
    AdamW,
    Lion,
    Muon,
    Optimizer,
    complete,
)
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import build
from seqrecipes.training import optimizer
from seqrecipes.training.checkpoints import Checkpoints
from tests.models import tiny
from tests.training import harness

DEVICES = 8
TOTAL, WARMUP, DECAY = 100, 20, 25
PEAK, FLOOR = 1.0, 0.1
FORMULAS: dict[str, Any] = {
    "linear": lambda t: FLOOR + (PEAK - FLOOR) * (TOTAL - t) / (TOTAL - WARMUP),
    "cosine": lambda t: (
        FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * (t - WARMUP) / (TOTAL - WARMUP))) / 2
    ),
    "inverse_sqrt": lambda t: PEAK * math.sqrt(WARMUP / t),
    "wsd": lambda t: PEAK - (PEAK - FLOOR) * math.sqrt(max(0, 1 - (TOTAL - t) / DECAY)),
    "constant": lambda t: PEAK,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_schedules_by_their_formulas(name: Any) -> None:
    ours = AdamW(
        peak=PEAK,
        schedule=name,
        warmup_steps=WARMUP,
        start=0.2,
        floor=FLOOR,
        decay_steps=DECAY if name == "wsd" else 0,
    )
    found = [float(rate) for rate in map(optimizer.schedule(ours, TOTAL), range(TOTAL + 1))]
    rise = [0.2 + 0.8 * t / WARMUP for t in range(WARMUP)]
    fall = [FORMULAS[name](t) for t in range(WARMUP, TOTAL + 1)]
    np.testing.assert_allclose(found, rise + fall, rtol=1e-5)


def test_the_floor_bounds_an_inverse_square_root() -> None:
    ours = AdamW(peak=1.0, schedule="inverse_sqrt", warmup_steps=1, floor=0.5)
    schedule = optimizer.schedule(ours, 100)
    assert [float(schedule(t)) for t in (1, 4, 9)] == pytest.approx([1.0, 0.5, 0.5])


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"schedule": "wsd"}, "decay_steps", "at least 1"),
        ({"decay_steps": 5}, "decay_steps", "'wsd' alone"),
        ({"schedule": "inverse_sqrt", "warmup_steps": 0}, "warmup_steps", "at least 1"),
        ({"schedule": "cosin"}, "schedule", "did you mean cosine"),
    ],
)
@pytest.mark.parametrize("kind", [AdamW, Muon])
def test_schedules_that_cannot_be_are_refused(
    kind: type[Optimizer], fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        kind(**fields)
    assert caught.value.field == f"{kind.__name__}.{field}"


def test_a_decay_longer_than_the_stage_is_refused() -> None:
    ours = Lion(schedule="wsd", warmup_steps=10, decay_steps=91)
    with pytest.raises(UserError, match="at most 90") as caught:
        optimizer.schedule(ours, 100)
    assert (caught.value.field, caught.value.value) == ("Lion.decay_steps", 91)


def test_what_was_written_before_there_were_others_is_adamw() -> None:
    written = AdamW(peak=1e-3).to_dict()
    old = {k: v for k, v in written.items() if k not in ("name", "schedule", "decay_steps")}
    assert complete(old) == written
    assert complete(Lion().to_dict()) == Lion().to_dict()


# Two layers of a stack: kernels from the width, to the width, a plain matrix; and what is no matrix
# of a layer.
LAYERS = "encoder/stack/layers"
SHAPES = {
    f"{LAYERS}/self_attention/query/kernel": (2, 8, 2, 3),
    f"{LAYERS}/self_attention/output/kernel": (2, 2, 3, 8),
    f"{LAYERS}/mlp/input/kernel": (2, 8, 5),
    f"{LAYERS}/mlp/input/bias": (2, 5),
    "token_embedding/embedding": (7, 8),
}
# {path: shape of a layer's matrix}.
MATRICES = {
    f"{LAYERS}/self_attention/query/kernel": (8, 6),
    f"{LAYERS}/self_attention/output/kernel": (6, 8),
    f"{LAYERS}/mlp/input/kernel": (8, 5),
}
RATE, STEPS = 0.05, 4


def values(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in SHAPES.items()}


def updated(ours: Optimizer, in_slices: bool = False) -> dict[str, Any]:
    """{path: parameter after a few updates}, where some stacks are handled in slices."""

    def cut(leaves: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        pieces: dict[str, jax.Array] = {}
        for path, leaf in leaves.items():
            if path.startswith(LAYERS) and in_slices:
                for start, stop in ((0, 1), (1, 2)):
                    pieces[f"{path}[{start}:{stop}]"] = jnp.asarray(leaf[start:stop])
            else:
                pieces[path] = jnp.asarray(leaf)
        return pieces

    params = cut(values(0))
    cohorts = dict.fromkeys(params, 0)
    state = optimizer.init(ours, params, cohorts, {})
    for step in range(STEPS):
        gradients = cut(values(step + 1))
        params, state, _ = optimizer.update(
            ours, gradients, state, params, cohorts, jnp.asarray(RATE)
        )
    if in_slices:
        return {
            path: np.concatenate([params[f"{path}[0:1]"], params[f"{path}[1:2]"]])
            if path.startswith(LAYERS)
            else params[path]
            for path in SHAPES
        }
    return params


def by_optax(
    transformation: optax.GradientTransformation, path: str, shape: Any, layer: Any
) -> np.ndarray:
    """A matrix after the same updates by optax's own optimizer, alone."""
    p = jnp.asarray(values(0)[path][layer]).reshape(shape)
    state = transformation.init(p)
    for step in range(STEPS):
        g = jnp.asarray(values(step + 1)[path][layer]).reshape(shape)
        direction, state = transformation.update(g, state, p)
        p = optax.apply_updates(p, direction)
    return np.asarray(p)


def pieces() -> list[tuple[str, Any, Any]]:
    """(path, shape, layer) of every parameter that has to be updated on its own."""
    return [
        (path, MATRICES.get(path, shape[1:] if path.startswith(LAYERS) else shape), layer)
        for path, shape in SHAPES.items()
        for layer in (range(2) if path.startswith(LAYERS) else [slice(None)])
    ]


def assert_equal_to_optax(ours: Optimizer, of: Any) -> None:
    found = updated(ours)
    for path, shape, layer in pieces():
        expected = by_optax(of(path), path, shape, layer)
        np.testing.assert_allclose(
            np.asarray(found[path][layer]).reshape(shape), expected, atol=2e-6, err_msg=path
        )


def test_lion_is_optax_lion() -> None:
    ours = Lion(weight_decay=0.3, clip_norm=0.0, beta1=0.8, beta2=0.95)

    def of(path: str) -> optax.GradientTransformation:
        decay = 0.0 if path.endswith("bias") else 0.3
        return optax.lion(RATE, b1=0.8, b2=0.95, weight_decay=decay)

    assert_equal_to_optax(ours, of)


@pytest.mark.parametrize("relative", [True, False])
def test_adafactor_is_optax_adafactor_layer_by_layer(relative: bool) -> None:
    ours = Adafactor(relative=relative, smallest_factored=4, clip_rms=1.1, decay_rate=0.7)
    theirs = optax.adafactor(
        RATE,
        min_dim_size_to_factor=4,
        decay_rate=0.7,
        clipping_threshold=1.1,
        multiply_by_parameter_scale=relative,
    )
    found = updated(ours)
    for path, _, layer in pieces():
        expected = by_optax(theirs, path, values(0)[path][layer].shape, layer)
        np.testing.assert_allclose(found[path][layer], expected, atol=2e-6, err_msg=path)


def test_muon_is_optax_muon_on_matrices_and_adam_on_the_rest() -> None:
    ours = Muon(weight_decay=0.3, clip_norm=0.0, momentum=0.9, beta1=0.8, beta2=0.95, epsilon=1e-3)

    def of(path: str) -> optax.GradientTransformation:
        if path in MATRICES:
            return optax.contrib.muon(RATE, beta=0.9, weight_decay=0.3, consistent_rms=0.2)
        decay = 0.0 if path.endswith("bias") else 0.3
        return optax.adamw(RATE, b1=0.8, b2=0.95, eps=1e-3, weight_decay=decay)

    assert_equal_to_optax(ours, of)


def test_updates_of_muon_are_nearly_orthogonal() -> None:
    params = {path: jnp.asarray(leaf) for path, leaf in values(0).items()}
    cohorts = dict.fromkeys(params, 0)
    ours = Muon(weight_decay=0.0, rms=0.3)
    state = optimizer.init(ours, params, cohorts, {})
    gradients = {path: jnp.asarray(leaf) for path, leaf in values(1).items()}
    after, _, _ = optimizer.update(ours, gradients, state, params, cohorts, jnp.asarray(1.0))
    for path, shape in MATRICES.items():
        for layer in range(2):
            step = np.asarray(params[path] - after[path])[layer].reshape(shape)
            singular = np.linalg.svd(step / (0.3 * math.sqrt(max(shape))), compute_uv=False)
            # Five iterations of Newton and Schulz end between about 0.7 and 1.2.
            assert np.all((singular > 0.6) & (singular < 1.3)), (path, singular)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_in_slices_is_updated_as_a_whole_one(name: str) -> None:
    small = {"smallest_factored": 4} if name == "Adafactor" else {}
    whole, cut = (
        updated(OPTIMIZERS[name](**small)),
        updated(OPTIMIZERS[name](**small), in_slices=True),
    )
    for path in SHAPES:
        np.testing.assert_allclose(cut[path], whole[path], rtol=0, atol=1e-6, err_msg=path)


CONFIG = tiny.config(encoder_layers=2, decoder_layers=0)
BATCH = tiny.batch(CONFIG, rows=8)
PHASES = (Phase(2, ("encoder/stack",)), Phase(2))
OTHERS = [
    Lion(peak=1e-3, warmup_steps=1),
    Adafactor(peak=1e-2, warmup_steps=1, smallest_factored=8),
    Muon(peak=1e-2, warmup_steps=1),
]


@functools.cache
def trained(ours: Optimizer) -> harness.Result:
    return harness.run(build(CONFIG), BATCH, PHASES, ours, Partitioning())


@pytest.mark.parametrize("ours", OTHERS, ids=lambda each: each.name)
def test_others_train_freeze_and_begin_afresh_with_what_joins(ours: Optimizer) -> None:
    start, result = tree.flatten(harness.initial(build(CONFIG))), trained(ours)
    frozen = {path for path in start if path.startswith("encoder/stack")}
    for path, value in start.items():
        same = np.array_equal(result.ends[0][path], value)
        assert same == (path in frozen), path
        if "key/bias" not in path:  # whose gradient is rounding alone
            assert not np.array_equal(result.ends[1][path], result.ends[0][path]), path
    joined = {cohort: counts(state) for cohort, state in result.state.optimizer.items()}
    assert joined == {"0": {4}, "1": {2}}
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]


def counts(state: Any) -> set[int]:
    """Updates that a cohort's state has seen, by every count in it."""
    return {
        int(count)
        for keys, leaf in jax.tree_util.tree_leaves_with_path(state)
        if getattr(keys[-1], "name", "") == "count"
        for count in np.ravel(leaf)
    }


@pytest.mark.parametrize("ours", OTHERS, ids=lambda each: each.name)
def test_a_mesh_changes_nothing_for_the_others(ours: Optimizer) -> None:
    partitioning = Partitioning(data=2, fsdp=2, tensor=2)
    mesh = partitioning.mesh(jax.devices()[:8])
    first = trained(ours)
    on_mesh = harness.run(
        build(CONFIG),
        BATCH,
        PHASES,
        ours,
        partitioning,
        mesh=mesh,
        start=first.states[0],
        only=slice(1, 2),
    )
    for path, value in first.ends[1].items():
        if "key/bias" not in path:
            np.testing.assert_allclose(on_mesh.ends[0][path], value, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("ours", OTHERS, ids=lambda each: each.name)
def test_their_state_survives_a_checkpoint(ours: Optimizer, tmp_path: pathlib.Path) -> None:
    state = trained(ours).state
    checkpoints = Checkpoints(tmp_path, Checkpointing())
    checkpoints.save(4, state, {})
    checkpoints.wait()

    def like(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    restored = checkpoints.restore(4, jax.tree.map(like, state))
    # Fails on trees of different structure, too.
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    checkpoints.close()
