"""Configurations: the shapes in `configs/`, their sizes by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from seqrecipes import tree
from seqrecipes.errors import UserError
from seqrecipes.models import EncoderOnly, ModelConfig, Seq2Seq, build
from seqrecipes.models.config import load
from tests.models import tiny

DECODER_LAYERS = {"roberta_12e": 0, "bart_12e12d": 12, "bart_12e2d": 2, "bart_12e1d": 1}
NAMES = sorted(DECODER_LAYERS)


def configuration(name: str, size: str, vocab_size: int = 1000, **overrides: Any) -> ModelConfig:
    return load(f"configs/{name}.py", size=size, vocab_size=vocab_size, overrides=overrides)


def shapes_of(config: ModelConfig) -> dict[str, Any]:
    """{path: shape and type}; nothing is allocated."""
    names = ("encoder_input_tokens", "decoder_input_tokens", "masked_positions")
    example = {name: jnp.zeros((1, 8), jnp.int32) for name in names}
    variables = jax.eval_shape(lambda: build(config).init(jax.random.key(0), example))
    return tree.flatten(variables["params"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tie_head", [True, False])
def test_number_of_parameters_at_full_size(name: str, tie_head: bool) -> None:
    vocab, d, f, layers, positions = 150_000, 1024, 4096, 12, 512
    decoder_layers = DECODER_LAYERS[name]
    norm, attention = 2 * d, 4 * (d * d + d)
    mlp = (d * f + f) + (f * d + d)
    expected = vocab * d
    # Positions, the norms after the embeddings and after the last layer.
    expected += positions * d + norm + layers * (attention + mlp + 2 * norm) + norm
    if decoder_layers:
        expected += positions * d + norm + norm
        expected += decoder_layers * (2 * attention + mlp + 3 * norm)
    else:
        expected += (d * d + d) + norm + vocab
    expected += 0 if tie_head else vocab * d
    config = configuration(name, "full", vocab, tie_head=tie_head)
    assert sum(leaf.size for leaf in shapes_of(config).values()) == expected


@pytest.mark.parametrize(
    ("fusion", "more"),
    [("none", 0), ("shared", 1024), ("per_layer", 12 * 1024), ("decoder_states", 0)],
)
def test_attention_fusion_adds_a_vector_for_each_learned_query(fusion: str, more: int) -> None:
    plain, fused = (
        sum(
            leaf.size for leaf in shapes_of(configuration("bart_12e12d", "full", **change)).values()
        )
        for change in ({}, {"attention_fusion": fusion})
    )
    assert fused - plain == more


@pytest.mark.parametrize("size", ["full", "mini"])
def test_the_encoder_is_named_and_shaped_alike_in_every_model(size: str) -> None:
    encoders = {}
    for name in NAMES:
        for tie_head in (True, False):
            leaves = shapes_of(configuration(name, size, tie_head=tie_head))
            encoders[name, tie_head] = {
                path: (leaf.shape, leaf.dtype)
                for path, leaf in leaves.items()
                if path.startswith(("encoder/", "token_embedding/"))
            }
            others = {path.split("/")[0] for path in leaves} - {"encoder", "token_embedding"}
            if DECODER_LAYERS[name]:
                assert others == {"decoder"} | (set() if tie_head else {"lm_head"})
            else:
                assert others == {"mlm_head"}
    first = encoders[NAMES[0], True]
    assert all(encoder == first for encoder in encoders.values())
    assert len(first) == 1 + 3 + 2 + 16


@pytest.mark.parametrize("name", NAMES)
def test_shapes_of_the_paper(name: str) -> None:
    config = configuration(name, "full")
    assert (config.hidden_size, config.mlp_size, config.num_heads) == (1024, 4096, 16)
    assert (config.encoder_layers, config.decoder_layers) == (12, DECODER_LAYERS[name])
    assert (config.norm, config.dropout, config.max_positions) == ("pre", 0.1, 512)
    assert config.head_size == 64
    assert isinstance(build(config), Seq2Seq if DECODER_LAYERS[name] else EncoderOnly)


def test_to_dict_rebuilds_the_configuration() -> None:
    config = tiny.config(norm="post")
    assert ModelConfig.from_dict(config.to_dict(), field="here") == config


@pytest.mark.parametrize("change", [{"token_types": 1}, {"norm": None}])
def test_another_versions_configuration_is_refused_by_its_fields(change: dict[str, Any]) -> None:
    values = tiny.config().to_dict() | change
    values = {name: value for name, value in values.items() if value is not None}
    with pytest.raises(UserError, match=rf"here = \['{next(iter(change))}'\].*another version"):
        ModelConfig.from_dict(values, field="here")


def test_fusion_needs_a_decoder() -> None:
    with pytest.raises(UserError, match=r"attention_fusion = .shared.: an encoder"):
        tiny.config(decoder_layers=0, attention_fusion="shared")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm", "middle"),
        ("remat", "some"),
        ("attention", "flash"),
        ("dtype", "float16"),
        ("dropout", 1.0),
        ("attention_dropout", -0.1),
        ("vocab_size", 0),
        ("hidden_size", 0),
        ("num_heads", 3),
        ("encoder_layers", 0),
        ("decoder_layers", -1),
        ("max_positions", 0),
        ("attention_fusion", "all"),
        ("pad_id", -1),
        ("pad_id", 24),
        ("norm_epsilon", -1.0),
        ("initializer_range", -0.02),
    ],
)
def test_impossible_fields_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        tiny.config(**{field: value})
    assert (caught.value.field, caught.value.value) == (field, value)


def test_a_file_that_does_not_exist_is_named_beside_those_that_do() -> None:
    with pytest.raises(UserError, match=r"configs/bart_12e12d\.py") as caught:
        configuration("bart_12e13d", "mini")
    assert caught.value.value == "configs/bart_12e13d.py"


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match="mini"):
        configuration("roberta_12e", "huge")


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(UserError, match="hidden_size") as caught:
        configuration("roberta_12e", "mini", hiden_size=3)
    assert (caught.value.field, caught.value.value) == ("Stage.model_overrides", "hiden_size")


@pytest.mark.parametrize(
    ("change", "words"),
    [("c.dropuot = 0.1", "not fields of a model"), ("del c.norm", "missing")],
)
def test_a_file_with_wrong_fields_is_refused(
    tmp_path: pathlib.Path, change: str, words: str
) -> None:
    file = tmp_path / "configs" / "mine.py"
    file.parent.mkdir()
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(size):\n"
        f"    c = ConfigDict({tiny.config().to_dict()})\n"
        f"    {change}\n"
        "    return c\n"
    )
    with pytest.raises(UserError, match=words) as caught:
        load(str(file), size="mini", vocab_size=24)
    assert caught.value.field == str(file)


def test_a_file_of_the_users_own_is_read_from_any_folder(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(size): return ConfigDict({tiny.config(vocab_size=7).to_dict()})\n"
    )
    config = load(str(file), size="any", vocab_size=30, overrides={"norm": "post"})
    assert config == tiny.config(vocab_size=30, norm="post")


@dataclasses.dataclass(frozen=True)
class Later(ModelConfig):
    """The model of a later version: one field more, whose default is what was done before."""

    gate: str = "none"


def test_a_model_of_before_a_field_came_has_its_default_and_a_later_one_is_refused() -> None:
    old = tiny.config().to_dict()
    assert Later.from_dict(old, field="x") == Later(**old, gate="none")
    new = Later(**old, gate="silu").to_dict()
    assert Later.from_dict(new, field="x").gate == "silu"
    for values, named in ((new, "gate"), ({k: v for k, v in old.items() if k != "norm"}, "norm")):
        with pytest.raises(UserError, match=rf"x = \['{named}'\]: another version"):
            ModelConfig.from_dict(values, field="x")
