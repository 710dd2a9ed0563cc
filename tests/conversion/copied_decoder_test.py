"""A decoder that starts as layers of the encoder: every leaf, the account, what it computes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import models, tree
from seqrecipes.config.training import Partitioning
from seqrecipes.conversion import warm_start
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig, build
from tests.models import oracle, tiny

DEVICES = 8

NAME = "encoder_to_seq2seq_copied"
# Encoder, what the target changes, and the encoder's layer of each decoder layer.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "as deep": ({"encoder_layers": 3}, {"decoder_layers": 3}, [0, 1, 2]),
    "shallower": ({"encoder_layers": 5}, {"decoder_layers": 2, "tie_head": False}, [1, 3]),
    "one layer, one query": (
        {"encoder_layers": 4, "embedding_norm": False, "tie_head": False},
        {"decoder_layers": 1, "attention_fusion": "shared", "tie_head": True},
        [2],
    ),
    "post-LN, a query each": (
        {"encoder_layers": 6, "norm": "post"},
        {"decoder_layers": 4, "attention_fusion": "per_layer", "tie_head": False},
        [0, 2, 3, 5],
    ),
}


def converted(
    case: str,
) -> tuple[ModelConfig, ModelConfig, dict[str, Any], dict[str, Any], warm_start.Account]:
    """Source and target, their configurations first, their parameters next, and the account."""
    encoder, changes, _ = CASES[case]
    source = tiny.config(decoder_layers=0, **encoder)
    target = dataclasses.replace(source, **changes)
    warm_start.check(NAME, source, target, source_vocabulary="a", target_vocabulary="a")
    account = warm_start.plan(NAME, tiny.shapes(build(source)), tiny.shapes(build(target)))
    old = tiny.random_params(build(source), 1, "float32")
    fresh = functools.partial(tiny.random_params, build(target), 2, "float32")
    return source, target, old, warm_start.convert(old, account=account, initialise=fresh), account


def by_hand(old: dict[str, Any], fresh: dict[str, Any], layers: list[int]) -> dict[str, Any]:
    """The target's parameters, put together room by room in NumPy."""
    encoder = old["encoder"]
    fresh_layers = fresh["decoder"]["stack"]["layers"]

    def rows(node: Any) -> Any:
        return jax.tree.map(lambda leaf: np.stack([leaf[i] for i in layers]), node)

    stack = encoder["stack"]["layers"]
    decoder = {
        **{name: leaf for name, leaf in fresh["decoder"].items() if name == "fusion"},
        "embedding": encoder["embedding"],
        "stack": encoder["stack"]
        | {
            "layers": {
                "self_attention": rows(stack["self_attention"]),
                "self_attention_norm": rows(stack["self_attention_norm"]),
                "cross_attention": rows(stack["self_attention"]),
                "cross_attention_norm": rows(stack["self_attention_norm"]),
                "mlp": rows(stack["mlp"]),
                "mlp_norm": rows(stack["mlp_norm"]),
                **{name: leaf for name, leaf in fresh_layers.items() if name == "fusion"},
            }
        },
    }
    result = {
        "token_embedding": old["token_embedding"],
        "encoder": encoder,
        "decoder": decoder,
    }
    if "lm_head" in fresh:
        result["lm_head"] = old["token_embedding"]
    return result


@pytest.mark.parametrize("case", CASES)
def test_every_leaf_is_the_one_chosen_by_hand(case: str) -> None:
    _, target, old, new, account = converted(case)
    fresh = tiny.random_params(build(target), 2, "float32")
    expected = tree.flatten(by_hand(old, fresh, CASES[case][2]))
    result = tree.flatten(new)
    assert result.keys() == expected.keys() == tree.flatten(fresh).keys()
    for path, leaf in result.items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
    unfounded = [path for path, origin in account.origins.items() if origin is None]
    assert unfounded == [path for path in result if "fusion" in path]


@pytest.mark.parametrize("case", CASES)
def test_the_printed_account_adds_up(case: str) -> None:
    source, target, _, _, account = converted(case)
    counts = dict.fromkeys(("new", "moved", "copy", "dropped"), 0)
    for line in str(account).splitlines()[1:]:
        _, count, fate = line.split(maxsplit=2)
        counts[fate.split()[0]] += int(count.replace(",", ""))
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(models.parameter_shapes(config)))
        for config in (source, target)
    ]
    assert counts["moved"] + counts["dropped"] == sizes[0]
    assert counts["moved"] + counts["copy"] + counts["new"] == sizes[1]
    assert counts["new"] == 16 * {"none": 0, "shared": 1, "per_layer": 4}[target.attention_fusion]
    assert account.dropped == tuple(
        sorted(path for path in account.source if path.startswith("mlm_head/"))
    )


def test_the_account_says_which_layers() -> None:
    account = converted("shallower")[4]
    lines = [" ".join(line.split()) for line in str(account).splitlines()]
    assert lines[0] == "encoder_to_seq2seq_copied: parameters"
    # Two layers of four projections, 16 x 16 each with its bias.
    attention = f"{2 * 4 * (256 + 16):,} copy of encoder/stack/layers/self_attention"
    for line in (
        f"decoder/stack/layers/self_attention {attention} (layers 1 3 of 5)",
        f"decoder/stack/layers/cross_attention {attention} (layers 1 3 of 5)",
        "decoder/stack/layers/mlp_norm 64 copy of encoder/stack/layers/mlp_norm (layers 1 3 of 5)",
        "decoder/stack/final_norm 32 copy of encoder/stack/final_norm",
        "decoder/embedding/position 320 copy of encoder/embedding/position",
        "lm_head/embedding 384 copy of token_embedding/embedding",
        f"encoder/stack/layers/self_attention {5 * 4 * (256 + 16):,} moved",
    ):
        assert line in lines, line


def test_a_text_of_one_token_is_decoded_as_it_is_encoded() -> None:
    """With nothing before a token to attend to, and cross-attention silenced, the sides agree."""
    _, target, _, new, _ = converted("as deep")
    leaves = tree.flatten(new)
    for path in leaves:
        if "cross_attention/output" in path:
            leaves[path] = np.zeros_like(leaves[path])
    tokens = np.array([[5], [9]])
    batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": tokens}
    variables, model = {"params": tree.unflatten(leaves)}, build(target)
    decoded: Any = model.apply(variables, batch, method="hidden")
    encoded: Any = model.apply(variables, tokens, method="encode")
    np.testing.assert_allclose(decoded, encoded, rtol=1e-5, atol=1e-5)


def test_logits_are_those_of_the_layers_chosen_by_hand() -> None:
    _, target, old, new, _ = converted("shallower")
    fresh = tiny.random_params(build(target), 2, "float32")
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), by_hand(old, fresh, [1, 3]))
    batch = tiny.batch(target, rows=2)
    logits: Any = build(target).apply({"params": new}, batch)
    np.testing.assert_allclose(
        logits, oracle.seq2seq_logits(batch, wide, target), rtol=1e-3, atol=1e-4
    )


def test_on_a_mesh_as_on_one_device_and_nothing_is_shared() -> None:
    source, target, old, alone, account = converted("shallower")
    partitioning = Partitioning(data=2, fsdp=2, tensor=2)
    mesh = partitioning.mesh()

    def placement(shapes: Any) -> Any:
        return partitioning.parameter_shardings(shapes, mesh)

    laid_out = jax.device_put(old, tree.unflatten(placement(tiny.shapes(build(source)))))
    result = warm_start.apply(
        account,
        laid_out,
        initialise=functools.partial(tiny.random_params, build(target), 2, "float32"),
        placement=placement,
    )
    for path, leaf in tree.flatten(result).items():
        np.testing.assert_array_equal(leaf, tree.flatten(alone)[path], err_msg=path)
    # A decoder's copies are trained apart from the encoder's leaves and from each other.
    buffers = [leaf.addressable_data(0) for leaf in jax.tree.leaves(result)]
    assert len({x.unsafe_buffer_pointer() for x in buffers}) == len(buffers)


def test_a_decoder_deeper_than_the_encoder_is_refused() -> None:
    source = tiny.config(decoder_layers=0)
    target = tiny.config(decoder_layers=3)
    with pytest.raises(UserError, match=r"decoder_layers = 3: the source has 2, .* at most 2"):
        warm_start.check(NAME, source, target, source_vocabulary="a", target_vocabulary="a")
