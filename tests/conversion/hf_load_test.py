"""Out and back again: bit-identical parameters, and refusals that list what is wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from seqrecipes import models, tree
from seqrecipes.config.training import Partitioning
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import load
from seqrecipes.conversion.hf.export import export
from seqrecipes.data import pieces
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.models import config as model_config
from tests.conversion.harness import on_one_device

DEVICES = 8

NAMES = ("roberta_12e", "bart_12e12d", "bart_12e2d", "bart_12e1d")


def mini(name: str, rows: int, **overrides: Any) -> ModelConfig:
    overrides = {"scan_layers": True} | overrides  # compiles faster
    return model_config.load(
        f"configs/{name}.py", size="mini", vocab_size=rows, overrides=overrides
    )


def random_leaves(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every leaf with values of its own, biases and scales too."""
    rng = np.random.default_rng(seed)
    shapes = tree.flatten(models.parameter_shapes(config))
    return {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}


def assert_same(params: tree.Tree, leaves: dict[str, np.ndarray]) -> None:
    found = tree.flatten(params)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(np.asarray(found[path]), leaf, err_msg=path, strict=True)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize(
    ("name", "fusion"),
    [*((name, "none") for name in NAMES), ("bart_12e12d", "shared"), ("bart_12e2d", "per_layer")],
)
def test_out_and_back_is_bit_identical(tmp_path, vocabulary, name, fusion, tie_head, norm):
    rows = len(pieces.pieces(vocabulary))
    config = mini(name, rows, tie_head=tie_head, norm=norm, attention_fusion=fusion)
    leaves = random_leaves(config)
    export(tmp_path, config, leaves.__getitem__, vocabulary=vocabulary)
    back = load.load(tmp_path, placement=on_one_device)
    assert back.config == config
    assert back.notes == ()
    assert_same(back.params, leaves)


def test_an_import_lies_on_the_mesh_that_was_asked_for(tmp_path, vocabulary):
    config = mini("bart_12e2d", len(pieces.pieces(vocabulary)))
    leaves = random_leaves(config)
    export(tmp_path, config, leaves.__getitem__, vocabulary=vocabulary)
    partitioning = Partitioning(fsdp=2, tensor=2)
    mesh = partitioning.mesh()
    back = load.load(
        tmp_path, placement=lambda shapes: partitioning.parameter_shardings(shapes, mesh)
    )
    assert_same(back.params, leaves)
    table = back.params["token_embedding"]["embedding"]
    assert table.sharding.shard_shape(table.shape) == (table.shape[0] // 2, table.shape[1] // 2)


def test_rows_past_the_vocabulary_are_cut_off(tmp_path, vocabulary):
    rows = len(pieces.pieces(vocabulary))
    padded = mini("roberta_12e", rows + 48, tie_head=False)
    leaves = random_leaves(padded)
    export(tmp_path, padded, leaves.__getitem__, vocabulary=vocabulary)
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == rows
    of_pieces = ("token_embedding/embedding", "mlm_head/projection/embedding", "mlm_head/bias")
    expected = leaves | {path: leaves[path][:rows] for path in of_pieces}
    assert_same(load.load(tmp_path, placement=on_one_device).params, expected)


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path, vocabulary):
    rows = len(pieces.pieces(vocabulary))
    config = mini("roberta_12e", rows - 1)
    with pytest.raises(UserError, match=f"vocabulary = {rows}.*rows for {rows - 1} pieces"):
        export(tmp_path, config, random_leaves(config).__getitem__, vocabulary=vocabulary)


@pytest.mark.parametrize("name", ["roberta_12e", "bart_12e2d"])
def test_an_encoder_alone_comes_back_with_a_new_head(tmp_path, vocabulary, name):
    config = mini(name, len(pieces.pieces(vocabulary)), tie_head=False)
    leaves = random_leaves(config)
    export(tmp_path, config, leaves.__getitem__, vocabulary=vocabulary, headless=True)
    assert not (tmp_path / "generation_config.json").exists()
    back = load.load(tmp_path, placement=on_one_device, seed=3)
    found = tree.flatten(back.params)
    fresh = tree.flatten(jax.jit(lambda: models.init_params(back.config, 3))())
    for path, leaf in found.items():
        new = path.startswith("mlm_head/")
        np.testing.assert_array_equal(leaf, fresh[path] if new else leaves[path], err_msg=path)
    assert back.notes == ("mlm_head: new, as the files have none",)


class Folder:
    """An export that can be tampered with."""

    def __init__(self, folder, config, vocabulary):
        self.folder, self.leaves = folder, random_leaves(config)
        export(folder, config, self.leaves.__getitem__, vocabulary=vocabulary)
        self.tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        self.values = json.loads((folder / "config.json").read_text())

    def load(self) -> load.Imported:
        safetensors.numpy.save_file(self.tensors, self.folder / "model.safetensors")
        (self.folder / "config.json").write_text(json.dumps(self.values))
        return load.load(self.folder, placement=on_one_device)

    def problems(self) -> list[str]:
        with pytest.raises(UserError) as caught:
            self.load()
        assert caught.value.value == str(self.folder)
        return caught.value.remedy.split("; ")


@pytest.fixture
def encoder(tmp_path, vocabulary):
    return Folder(tmp_path, mini("roberta_12e", len(pieces.pieces(vocabulary))), vocabulary)


@pytest.fixture
def seq2seq(tmp_path, vocabulary):
    return Folder(tmp_path, mini("bart_12e1d", len(pieces.pieces(vocabulary))), vocabulary)


def test_all_that_does_not_fit_is_listed(seq2seq):
    del seq2seq.tensors["model.encoder.layers.2.fc1.bias"]
    seq2seq.tensors["model.decoder.layers.1.fc1.bias"] = np.zeros(512, np.float32)
    seq2seq.tensors["model.shared.weight"] = np.zeros((7, 128), np.float32)
    rows = seq2seq.values["vocab_size"]
    assert seq2seq.problems() == [
        "model.decoder.layers.1.fc1.bias is unexpected",
        "model.encoder.layers.2.fc1.bias is missing",
        f"model.shared.weight has the shape (7, 128), not ({rows}, 128)",
    ]


def test_post_ln_weights_are_no_pre_ln_model(tmp_path, vocabulary):
    config = mini("roberta_12e", len(pieces.pieces(vocabulary)), norm="post")
    folder = Folder(tmp_path, config, vocabulary)
    folder.values |= {
        "model_type": "roberta-prelayernorm",
        "architectures": ["RobertaPreLayerNormForMaskedLM"],
    }
    problems = folder.problems()
    assert "roberta.encoder.layer.0.attention.output.LayerNorm.weight is unexpected" in problems
    assert "roberta_prelayernorm.LayerNorm.weight is missing" in problems


def test_copies_of_a_tied_table_must_be_copies(encoder):
    table = encoder.tensors["roberta_prelayernorm.embeddings.word_embeddings.weight"]
    encoder.tensors["lm_head.decoder.weight"] = table.copy()
    encoder.tensors["lm_head.decoder.bias"] = encoder.tensors["lm_head.bias"].copy()
    assert_same(encoder.load().params, encoder.leaves)
    encoder.tensors["lm_head.decoder.weight"][5, 5] += 1
    assert encoder.problems() == [
        "lm_head.decoder.weight differs from "
        "roberta_prelayernorm.embeddings.word_embeddings.weight, but config.json ties them"
    ]


def test_an_untied_head_computes_with_its_own_bias_and_may_lack_the_other(tmp_path, vocabulary):
    config = mini("roberta_12e", len(pieces.pieces(vocabulary)), tie_head=False)
    folder = Folder(tmp_path, config, vocabulary)
    folder.tensors["lm_head.bias"] += 1
    assert_same(folder.load().params, folder.leaves)
    folder.tensors["lm_head.bias"] = folder.tensors.pop("lm_head.decoder.bias")
    assert_same(folder.load().params, folder.leaves)


def test_two_token_tables_are_refused(tmp_path, vocabulary):
    config = mini("bart_12e1d", len(pieces.pieces(vocabulary)), tie_head=False)
    folder = Folder(tmp_path, config, vocabulary)
    folder.tensors["model.decoder.embed_tokens.weight"][3, 3] += 1
    assert folder.problems() == [
        "model.encoder.embed_tokens.weight and model.decoder.embed_tokens.weight differ, but our "
        "models have one table"
    ]


def test_a_bias_of_the_logits_is_refused(seq2seq):
    seq2seq.tensors["final_logits_bias"][0, 4] = 0.5
    assert seq2seq.problems() == ["final_logits_bias is not zero, but our models have no such bias"]


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, np.int8])
def test_quantised_tensors_are_refused_by_name(encoder, kind):
    name = "roberta_prelayernorm.encoder.layer.0.output.dense.weight"
    encoder.tensors[name] = encoder.tensors[name].astype(kind)
    (problem,) = encoder.problems()[:1]
    assert f"other types than F64, F32, F16, BF16: {name} (" in problem


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused_by_name(encoder, value):
    name = "roberta_prelayernorm.encoder.layer.1.output.dense.weight"
    encoder.tensors[name][2, 3] = value
    assert f"{name} holds 1 values that are no finite numbers" in encoder.problems()[0]


def test_names_without_the_base_model_are_understood(seq2seq):
    seq2seq.tensors.pop("final_logits_bias")
    seq2seq.tensors = {k.removeprefix("model."): v for k, v in seq2seq.tensors.items()}
    seq2seq.values["architectures"] = ["MBartModel"]
    assert_same(seq2seq.load().params, seq2seq.leaves)


def test_token_type_0_is_added_to_the_positions(encoder):
    types = np.random.default_rng(7).standard_normal((2, 128), np.float32)
    key = "roberta_prelayernorm.embeddings.token_type_embeddings.weight"
    encoder.tensors[key] = types
    path = "encoder/embedding/position/embedding"
    back = encoder.load()
    assert_same(back.params, encoder.leaves | {path: encoder.leaves[path] + types[0]})
    assert back.notes == (f"{key}: row 0 added to the positions, rows 1 to 1 left",)


def test_a_scaled_table_comes_out_scaled_and_its_head_untied(seq2seq):
    seq2seq.values["scale_embedding"] = True
    back = seq2seq.load()
    table = seq2seq.leaves["token_embedding/embedding"]
    scaled = table * np.float32(math.sqrt(128))
    expected = {"token_embedding/embedding": scaled, "lm_head/embedding": table}
    assert_same(back.params, seq2seq.leaves | expected)
    assert not back.config.tie_head and len(back.notes) == 1


def test_what_no_model_of_ours_reads_is_left_and_said(encoder):
    encoder.tensors["roberta_prelayernorm.pooler.dense.weight"] = np.zeros((128, 128), np.float32)
    encoder.tensors["roberta_prelayernorm.embeddings.position_ids"] = np.arange(514)[None]
    back = encoder.load()
    assert_same(back.params, encoder.leaves)
    assert [note.split(":")[0] for note in back.notes] == [
        "roberta_prelayernorm.embeddings.position_ids",
        "roberta_prelayernorm.pooler.dense.weight",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type = 'bert': choose one of roberta-prelayernorm"),
        ({"architectures": ["RobertaPreLayerNormForCausalLM"]}, "choose a checkpoint of"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu': our models have 'gelu'"),
        ({"pad_token_id": 0}, "pad_token_id = 0: our models have 1"),
        ({"position_embedding_type": "relative_key"}, "our models have 'absolute'"),
        ({"num_attention_heads": 5}, "num_heads"),
        ({"hidden_size": "128"}, "hidden_size = '128': must be a whole number"),
        ({"num_hidden_layers": [2]}, "num_hidden_layers = .*must be a whole number"),
        ({"max_position_embeddings": True}, "max_position_embeddings = True: must be a whole"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false': must be true or false"),
        ({"architectures": "RobertaModel"}, "architectures = 'RobertaModel': must be a list"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder = True: RobertaPreLayerNorm models"),
    ],
)
def test_settings_that_our_models_lack_are_refused_by_name(encoder, change, message):
    encoder.values |= change
    with pytest.raises(UserError, match=message):
        encoder.load()


def test_a_missing_field_and_two_values_for_one_are_refused(encoder, seq2seq):
    del encoder.values["hidden_size"]
    with pytest.raises(UserError, match="'hidden_size': this field is missing"):
        encoder.load()
    seq2seq.values["decoder_ffn_dim"] = 256
    with pytest.raises(UserError, match="one value for both"):
        seq2seq.load()


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_is_no_folder_of_a_model_is_refused(tmp_path, content):
    if content is None:
        with pytest.raises(UserError, match="is no folder"):
            load.read_config(tmp_path / "nothing")
    else:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"holds no config\.json|not"):
        load.read_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"decoder_layers": 0}, "roberta-prelayernorm"),
        ({"decoder_layers": 0, "norm": "post"}, "xlm-roberta"),
        ({}, "mbart"),
        ({"norm": "post"}, "bart"),
        ({"norm_epsilon": 1e-12}, "seqrecipes"),
        ({"embedding_norm": False}, "seqrecipes"),
        ({"attention_fusion": "shared", "norm": "post"}, "seqrecipes"),
    ],
)
def test_every_model_gets_the_class_that_expresses_it(changes, kind):
    config = mini("bart_12e2d", 50, **changes)
    values = hf_config.to_hf(config)
    assert values["model_type"] == hf_config.model_type(config) == kind
    assert hf_config.from_hf(json.loads(json.dumps(values))) == config


@pytest.mark.parametrize(
    ("changes", "field"), [({"embedding_norm": False}, "embedding_norm"), ({"pad_id": 0}, "pad_id")]
)
def test_what_no_class_expresses_is_refused(changes, field):
    with pytest.raises(UserError) as caught:
        hf_config.model_type(mini("roberta_12e", 50, **changes))
    assert caught.value.field == field
