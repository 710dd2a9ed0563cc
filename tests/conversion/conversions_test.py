"""Every conversion that takes rows, on whole models: what moved, what is new, what it computes."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.config.training import Partitioning
from seqrecipes.conversion import warm_start
from seqrecipes.models import ModelConfig, build
from seqrecipes.training import checkpoints
from tests.models import tiny

DEVICES = 8

OLD = [f"piece {i}" for i in range(24)]
# Shuffled, some gone, some new, and two rows of padding up to 32.
NEW = [OLD[i] for i in (0, 1, 2, 3, 9, 20, 7, 22, 4, 5, 12, 15)] + [f"new {i}" for i in range(18)]
SHORT = NEW[:14]
ENCODER = {"decoder_layers": 0}
TABLES = r"token_embedding/embedding|lm_head/embedding|mlm_head/projection/embedding|mlm_head/bias"
POSITIONS = r"(encoder|decoder)/embedding/position/embedding"
LAYERS = r"decoder/stack/layers/.*"


def by_piece(source: list[str], target: list[str], rows: int) -> list[int]:
    found = [source.index(piece) if piece in source else -1 for piece in target]
    return found + [-1] * (rows - len(target))


# Name, source, target, pieces, affected leaves, the source's row for each row of the target.
CASES: dict[str, tuple[str, dict, dict, Any, str, list[int]]] = {
    "grow the vocabulary": (
        "new_vocabulary",
        {},
        {"vocab_size": 32},
        (OLD, NEW),
        TABLES,
        by_piece(OLD, NEW, 32),
    ),
    "shrink an untied vocabulary": (
        "new_vocabulary",
        {"tie_head": False},
        {"tie_head": False, "vocab_size": 14},
        (OLD, SHORT),
        TABLES,
        by_piece(OLD, SHORT, 14),
    ),
    "an encoder's vocabulary": (
        "new_vocabulary",
        ENCODER,
        ENCODER | {"vocab_size": 14},
        (OLD, SHORT),
        TABLES,
        by_piece(OLD, SHORT, 14),
    ),
    "an untied encoder's padded vocabulary": (
        "new_vocabulary",
        ENCODER | {"tie_head": False, "vocab_size": 28},
        ENCODER | {"tie_head": False, "vocab_size": 32},
        (OLD, NEW),
        TABLES,
        by_piece(OLD, NEW, 32),
    ),
    "longer": (
        "new_positions",
        {},
        {"max_positions": 26},
        None,
        POSITIONS,
        [*range(20), *[-1] * 6],
    ),
    "shorter": (
        "new_positions",
        ENCODER | {"norm": "post"},
        ENCODER | {"norm": "post", "max_positions": 9},
        None,
        POSITIONS,
        list(range(9)),
    ),
    "first layers": (
        "first_decoder_layers",
        {"decoder_layers": 6},
        {"decoder_layers": 2},
        None,
        LAYERS,
        [0, 1],
    ),
    "last layers with a query each": (
        "last_decoder_layers",
        {"decoder_layers": 6, "attention_fusion": "per_layer"},
        {"decoder_layers": 4, "attention_fusion": "per_layer"},
        None,
        LAYERS,
        [2, 3, 4, 5],
    ),
    "every third layer, one query": (
        "every_kth_decoder_layer",
        {"decoder_layers": 6, "attention_fusion": "shared", "tie_head": False},
        {"decoder_layers": 2, "attention_fusion": "shared", "tie_head": False},
        None,
        LAYERS,
        [0, 3],
    ),
    "nothing": ("identity", {"norm": "post"}, {"norm": "post"}, None, "", []),
}


def parameters(config: ModelConfig, seed: int) -> dict[str, Any]:
    return tiny.random_params(build(config), seed, "float32")


def logits(config: ModelConfig, params: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
    return jax.jit(build(config).apply)({"params": params}, batch)


def converted(
    name: str, source: ModelConfig, target: ModelConfig, pieces: Any, params: Mapping[str, Any]
) -> tuple[dict[str, Any], warm_start.Account]:
    def initialise() -> dict[str, Any]:
        return parameters(target, 99)

    warm_start.check(
        name,
        source,
        target,
        source_vocabulary="a",
        target_vocabulary="b" if pieces else "a",
        pieces=pieces,
    )
    account = warm_start.plan(
        name, tiny.shapes(build(source)), tiny.shapes(build(target)), pieces=pieces
    )
    return warm_start.convert(params, account=account, initialise=initialise), account


@pytest.mark.parametrize("case", CASES)
def test_rows_are_kept_to_the_bit_and_new_ones_are_the_mean(case):
    name, ours, theirs, pieces, affected, index = CASES[case]
    source, target = tiny.config(**ours), tiny.config(**theirs)
    params = parameters(source, 0)
    result, _ = converted(name, source, target, pieces, params)
    before, after = tree.flatten(params), tree.flatten(result)
    assert after.keys() == tree.flatten(tiny.shapes(build(target))).keys()
    touched = {path for path in after if re.fullmatch(affected, path)}
    assert bool(touched) is bool(affected)
    for path, leaf in after.items():
        rows = index if path in touched else list(range(len(before[path])))
        assert leaf.shape == (len(rows), *before[path].shape[1:]), path
        known = len(pieces[0]) if pieces else len(before[path])
        mean = before[path][:known].astype(np.float64).mean(0)
        for new, old in zip(np.asarray(leaf), rows, strict=True):
            if old < 0:
                np.testing.assert_allclose(new, mean, rtol=1e-6, atol=1e-7, err_msg=path)
            else:
                np.testing.assert_array_equal(new, before[path][old], err_msg=path)


@pytest.mark.parametrize("case", CASES)
def test_the_printed_account_adds_up(case):
    name, ours, theirs, pieces, _, _ = CASES[case]
    source, target = tiny.config(**ours), tiny.config(**theirs)
    _, account = converted(name, source, target, pieces, parameters(source, 0))
    counts = {"new": 0, "moved": 0, "dropped": 0}
    for line in str(account).splitlines()[1:]:
        _, count, fate = line.split(maxsplit=2)
        counts[fate.split()[0]] += int(count.replace(",", ""))
    size = lambda config: sum(x.size for x in jax.tree.leaves(tiny.shapes(build(config))))  # noqa: E731
    assert counts["moved"] + counts["dropped"] == size(source)
    assert counts["moved"] + counts["new"] == size(target)


def test_the_account_says_which_rows():
    def lines(case: str) -> list[str]:
        name, ours, theirs, pieces, _, _ = CASES[case]
        source, target = tiny.config(**ours), tiny.config(**theirs)
        account = converted(name, source, target, pieces, parameters(source, 0))[1]
        return [" ".join(line.split()) for line in str(account).splitlines()]

    vocabulary = lines("an encoder's vocabulary")
    assert vocabulary[0] == "new_vocabulary: parameters"
    assert [line for line in vocabulary if line.startswith("token_embedding")] == [
        "token_embedding/embedding 192 dropped (rows by piece: 12 dropped)",
        "token_embedding/embedding 192 moved (rows by piece: 12 kept)",
        "token_embedding/embedding 32 new (rows by piece: 2 new, the mean)",
    ]
    assert "mlm_head/bias 12 moved (rows by piece: 12 kept)" in vocabulary
    assert "encoder/embedding/position 320 moved (positions: 20 kept)" in lines("longer")
    layers = lines("every third layer, one query")
    assert "decoder/stack/layers/mlp_norm 64 moved (layers 0 3 of 6)" in layers
    assert "decoder/stack/layers/mlp_norm 128 dropped (layers 1 2 4 5 of 6)" in layers
    assert "decoder/fusion/query 16 moved" in layers


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("decoder_layers", [0, 2])
@pytest.mark.parametrize("new", [NEW, SHORT], ids=["grown", "shrunken"])
def test_shared_pieces_keep_their_logits(new, decoder_layers, tie_head):
    source = tiny.config(decoder_layers=decoder_layers, tie_head=tie_head)
    target = dataclasses.replace(source, vocab_size=32 if new is NEW else 14)
    params = parameters(source, 3)
    result, _ = converted("new_vocabulary", source, target, (OLD, new), params)
    shared = [piece for piece in new if piece in OLD]
    old_ids = np.array([OLD.index(piece) for piece in shared])
    new_ids = np.array([new.index(piece) for piece in shared])
    text = np.random.default_rng(0).integers(0, len(shared), (3, 7))
    old_batch: dict[str, Any] = {"encoder_input_tokens": old_ids[text]}
    new_batch: dict[str, Any] = {"encoder_input_tokens": new_ids[text]}
    for batch, ids in ((old_batch, old_ids), (new_batch, new_ids)):
        batch |= (
            {"decoder_input_tokens": ids[text[:, ::-1]]}
            if decoder_layers
            else {"masked_positions": np.array([[1, 4]] * 3)}
        )
    before = logits(source, params, old_batch)
    after = logits(target, result, new_batch)
    np.testing.assert_allclose(after[..., new_ids], before[..., old_ids], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_positions", [12, 40])
def test_other_positions_change_nothing_for_short_texts(max_positions):
    source = tiny.config()
    target = dataclasses.replace(source, max_positions=max_positions)
    params, batch = parameters(source, 4), tiny.batch(source)
    result, _ = converted("new_positions", source, target, None, params)
    np.testing.assert_array_equal(logits(target, result, batch), logits(source, params, batch))


def test_to_another_vocabulary_and_back_is_exact():
    """Nothing is lost where every piece of the first has a row in the second."""
    source = tiny.config(tie_head=False)
    target = dataclasses.replace(source, vocab_size=30)
    larger = [*reversed(OLD), *(f"new {i}" for i in range(6))]
    params = parameters(source, 5)
    there, _ = converted("new_vocabulary", source, target, (OLD, larger), params)
    back, _ = converted("new_vocabulary", target, source, (larger, OLD), there)
    for path, leaf in tree.flatten(back).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params)[path], err_msg=path)


def test_what_shrinking_dropped_comes_back_as_the_mean():
    source = tiny.config()
    small = dataclasses.replace(source, vocab_size=14, max_positions=9)
    by_vocabulary = dataclasses.replace(source, vocab_size=14)
    params = parameters(source, 6)
    pieces = (OLD, OLD[10:])
    one, _ = converted("new_vocabulary", source, by_vocabulary, pieces, params)
    two, _ = converted("new_positions", by_vocabulary, small, None, one)
    three, _ = converted("new_positions", small, by_vocabulary, None, two)
    last, _ = converted("new_vocabulary", by_vocabulary, source, pieces[::-1], three)
    for path, kept in (
        ("token_embedding/embedding", range(10, 24)),
        ("encoder/embedding/position/embedding", range(9)),
        ("decoder/embedding/position/embedding", range(9)),
    ):
        before, after = tree.flatten(params)[path], tree.flatten(last)[path]
        rest = [row for row in range(len(before)) if row not in kept]
        after = np.asarray(after)
        np.testing.assert_array_equal(after[list(kept)], before[list(kept)])
        mean = before[list(kept)].astype(np.float64).mean(0)
        np.testing.assert_allclose(
            after[rest], np.broadcast_to(mean, after[rest].shape), rtol=1e-5, atol=1e-7
        )


def test_first_and_last_layers_make_up_the_whole():
    source = tiny.config(decoder_layers=5, attention_fusion="per_layer")
    params = parameters(source, 7)
    halves = [
        tree.flatten(
            converted(name, source, dataclasses.replace(source, decoder_layers=n), None, params)[0]
        )
        for name, n in (("first_decoder_layers", 2), ("last_decoder_layers", 3))
    ]
    paths = [path for path in tree.flatten(params) if "decoder/stack/layers" in path]
    assert "decoder/stack/layers/fusion/query" in paths
    for path in paths:
        np.testing.assert_array_equal(
            np.concatenate([half[path] for half in halves]), tree.flatten(params)[path]
        )


@pytest.mark.parametrize("attention_fusion", ["shared", "per_layer"])
def test_a_seq2seq_model_with_fusion_starts_from_an_encoder_and_gives_one(attention_fusion):
    encoder = tiny.config(**ENCODER, tie_head=False)
    fused = tiny.config(attention_fusion=attention_fusion)
    old = parameters(encoder, 8)
    new, account = converted("encoder_to_seq2seq", encoder, fused, None, old)
    queries = [path for path in account.origins if path.endswith("fusion/query")]
    assert len(queries) == 1 and account.origins[queries[0]] is None
    back, _ = converted("seq2seq_to_encoder", fused, encoder, None, new)
    for path, leaf in tree.flatten({"encoder": back["encoder"]}).items():
        np.testing.assert_array_equal(leaf, tree.flatten(old)[path], err_msg=path)


def saved(tmp_path: pathlib.Path, params: Mapping[str, Any]) -> pathlib.Path:
    arrays = jax.tree.map(jax.numpy.asarray, params)
    checkpoints.save_params(tmp_path / "old", arrays, {}, vocabulary=b"", account="")
    return checkpoints.find(tmp_path / "old", field="")


@pytest.mark.parametrize(
    "partitioning",
    [Partitioning(data=8), Partitioning(data=2, fsdp=2, tensor=2)],
    ids=["data", "all three"],
)
def test_a_checkpoint_converts_on_a_mesh_as_on_one_device(tmp_path, partitioning):
    source = tiny.config(tie_head=False)
    target = dataclasses.replace(source, vocab_size=32)
    params, pieces = parameters(source, 9), (OLD, NEW)
    alone, _ = converted("new_vocabulary", source, target, pieces, params)
    folder = saved(tmp_path, params)
    mesh = partitioning.mesh()
    result, account = warm_start.from_checkpoint(
        "new_vocabulary",
        folder,
        tiny.shapes(build(source)),
        initialise=lambda: parameters(target, 99),
        placement=lambda shapes: partitioning.parameter_shardings(shapes, mesh),
        pieces=pieces,
    )
    shardings = partitioning.parameter_shardings(result, mesh)
    for path, leaf in tree.flatten(result).items():
        np.testing.assert_array_equal(leaf, tree.flatten(alone)[path], err_msg=path)
        assert leaf.sharding.is_equivalent_to(shardings[path], leaf.ndim), path
    assert "rows by piece: 12 kept" in str(account)


def test_recipe_1_from_disk_starts_an_untied_head_from_the_table(tmp_path):
    """Soltan et al. 2023, section 2.1.4: bart-12e12d goes on as an MLM encoder."""
    source = tiny.config()
    target = tiny.config(**ENCODER, tie_head=False)
    params = parameters(source, 10)
    folder = saved(tmp_path, params)
    partitioning = Partitioning(data=2, fsdp=2, tensor=2)
    mesh = partitioning.mesh()
    result, account = warm_start.from_checkpoint(
        "seq2seq_to_encoder",
        folder,
        tiny.shapes(build(source)),
        initialise=lambda: parameters(target, 99),
        placement=lambda shapes: partitioning.parameter_shardings(shapes, mesh),
    )
    leaves = tree.flatten(result)
    table = params["token_embedding"]["embedding"]
    np.testing.assert_array_equal(leaves["token_embedding/embedding"], table)
    np.testing.assert_array_equal(leaves["mlm_head/projection/embedding"], table)
    fresh = tree.flatten(parameters(target, 99))
    for path in ("mlm_head/dense/kernel", "mlm_head/norm/scale", "mlm_head/bias"):
        np.testing.assert_array_equal(leaves[path], fresh[path])
    for path, leaf in tree.flatten({"encoder": params["encoder"]}).items():
        np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)
    assert "copy of token_embedding/embedding" in str(account)
