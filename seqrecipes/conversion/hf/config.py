"""`config.json` and `generation_config.json`: our configuration in Hugging Face's words, and back.

What their classes cannot express is written for a class of our own (`modeling_seqrecipes.py`).
What ours cannot express is refused, by the name it has over there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from seqrecipes.conversion.hf.names import UNUSED_POSITIONS
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig

OWN = "seqrecipes"
LABELLER = "seqrecipes-labeller"
# Our own classes for transformers; copies go beside the weights that need them.
MODELING_FILE = "modeling_seqrecipes.py"
LABELLING_FILE = "labelling_seqrecipes.py"
_CODE = {OWN: (MODELING_FILE, "layers_seqrecipes.py"), LABELLER: (LABELLING_FILE,)}


# model_type: stem of its classes, norm.
_ENCODERS = {
    "roberta-prelayernorm": ("RobertaPreLayerNorm", "pre"),
    "xlm-roberta": ("XLMRoberta", "post"),
    "roberta": ("Roberta", "post"),
}
_SEQ2SEQ = {"mbart": ("MBart", "pre"), "bart": ("Bart", "post")}
MODEL_TYPES = (*_ENCODERS, *_SEQ2SEQ, OWN)

# MBart and BART leave PyTorch's default.
_BART_EPSILON = 1e-5
SPECIAL_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def code_files(model_type: str) -> tuple[pathlib.Path, ...]:
    """The files of our own that a model of this type needs beside its weights."""
    return tuple(pathlib.Path(__file__).with_name(name) for name in _CODE.get(model_type, ()))


def model_type(config: ModelConfig) -> str:
    """The `model_type` that expresses a model.

    Raises:
      UserError: none does.
    """
    if config.pad_id != SPECIAL_IDS["pad_token_id"]:
        raise UserError("pad_id", config.pad_id, "their position ids need the padding id 1")
    if not config.decoder_layers:
        if not config.embedding_norm:
            raise UserError(
                "embedding_norm", False, "no class of theirs does without it in an encoder"
            )
        return "roberta-prelayernorm" if config.norm == "pre" else "xlm-roberta"
    plain = config.attention_fusion == "none" and config.embedding_norm
    if not plain or config.norm_epsilon != _BART_EPSILON:
        return OWN
    return "mbart" if config.norm == "pre" else "bart"


def to_hf(config: ModelConfig, *, headless: bool = False) -> dict[str, Any]:
    """The contents of `config.json`.

    Args:
      config: the model, with as many rows as the tokenizer has pieces.
      headless: without the language-modelling head.
    """
    kind = model_type(config)
    common = {
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_head,
        "dtype": "float32",
        **SPECIAL_IDS,
    }
    if kind in _ENCODERS:
        stem, _ = _ENCODERS[kind]
        return common | {
            "architectures": [stem + ("Model" if headless else "ForMaskedLM")],
            "hidden_size": config.hidden_size,
            "intermediate_size": config.mlp_size,
            "num_hidden_layers": config.encoder_layers,
            "num_attention_heads": config.num_heads,
            "max_position_embeddings": config.max_positions + UNUSED_POSITIONS,
            "type_vocab_size": 1,
            "layer_norm_eps": config.norm_epsilon,
            "hidden_act": "gelu",
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "initializer_range": config.initializer_range,
        }
    common |= {
        "is_encoder_decoder": True,
        "decoder_start_token_id": SPECIAL_IDS["eos_token_id"],
        "d_model": config.hidden_size,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "max_position_embeddings": config.max_positions,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "init_std": config.initializer_range,
    }
    if kind == OWN:
        module = MODELING_FILE.removesuffix(".py")
        return common | {
            "architectures": ["SeqRecipesForConditionalGeneration"],
            "auto_map": {
                "AutoConfig": f"{module}.SeqRecipesConfig",
                "AutoModel": f"{module}.SeqRecipesModel",
                "AutoModelForSeq2SeqLM": f"{module}.SeqRecipesForConditionalGeneration",
            },
            "attention_heads": config.num_heads,
            "ffn_dim": config.mlp_size,
            "norm": config.norm,
            "embedding_norm": config.embedding_norm,
            "layer_norm_eps": config.norm_epsilon,
            "attention_fusion": config.attention_fusion,
        }
    return common | {
        "architectures": [f"{_SEQ2SEQ[kind][0]}ForConditionalGeneration"],
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.mlp_size,
        "decoder_ffn_dim": config.mlp_size,
        "activation_function": "gelu",
        "activation_dropout": 0.0,
        "scale_embedding": False,
    }


def generation(config: ModelConfig) -> dict[str, Any]:
    """The contents of `generation_config.json`: the first token, the last, and how many at most."""
    return {
        **SPECIAL_IDS,
        "decoder_start_token_id": SPECIAL_IDS["eos_token_id"],
        # With the start token.
        "max_length": config.max_positions + 1,
    }


# Fields that would change the mathematics, and the only value that ours has; where a file leaves
# one out, its class defaults to that value.
_FIXED = {
    "hidden_act": "gelu",
    "activation_function": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "static_position_embeddings": False,
    **SPECIAL_IDS,
}


def from_hf(values: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of a model of theirs.

    A head that shares a scaled token table (`scale_embedding`) comes out untied: the scale then
    belongs to one of the two tables. Rates that we have no place for (`activation_dropout`, layer
    drop) are left behind; they do not touch the weights.

    Args:
      values: the contents of `config.json`.

    Raises:
      UserError: another architecture, or a setting that our models do not have.
    """
    kind = values.get("model_type")
    if kind == LABELLER:
        raise UserError(
            "config.json: model_type",
            kind,
            "a fine-tuned labeller is exported for use alone; import the model that it was "
            "fine-tuned from",
        )
    if kind not in MODEL_TYPES:
        raise UserError("config.json: model_type", kind, f"choose one of {', '.join(MODEL_TYPES)}")
    for field, ours in _FIXED.items():
        if values.get(field, ours) != ours:
            raise UserError(f"config.json: {field}", values[field], f"our models have {ours!r}")
    seq2seq = kind not in _ENCODERS
    stem, norm = (_ENCODERS | _SEQ2SEQ | {OWN: ("SeqRecipes", values.get("norm", "pre"))})[kind]
    classes = values.get("architectures") or [f"{stem}Model"]
    if not isinstance(classes, list) or not isinstance(classes[0], str):
        raise UserError("config.json: architectures", classes, "must be a list of names of classes")
    heads = ("ForConditionalGeneration", "Model") if seq2seq else ("ForMaskedLM", "Model")
    if classes[0] not in [stem + head for head in heads]:
        raise UserError(
            "config.json: architectures",
            classes[0],
            f"choose a checkpoint of {' or '.join(stem + head for head in heads)}",
        )
    for field in ("tie_word_embeddings", "scale_embedding"):
        if not isinstance(values.get(field, True), bool):
            raise UserError(f"config.json: {field}", values[field], "must be true or false")
    for field, needed in (
        ("normalize_before", norm == "pre"),
        ("normalize_embedding", True),
        ("is_encoder_decoder", seq2seq),
    ):
        if values.get(field, needed) != needed:
            raise UserError(f"config.json: {field}", values[field], f"{stem} models have {needed}")

    def need(*names: str) -> Any:
        found = {name: values[name] for name in names if name in values}
        if not found:
            raise UserError("config.json", names[0], "this field is missing")
        for name, value in found.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"config.json: {name}", value, "must be a whole number from 1 on")
        if len(set(found.values())) > 1:
            raise UserError("config.json", found, "our models have one value for both")
        return next(iter(found.values()))

    shared = {
        "vocab_size": need("vocab_size"),
        "tie_head": bool(values.get("tie_word_embeddings", True))
        and not values.get("scale_embedding", False),
        "norm": norm,
        "pad_id": SPECIAL_IDS["pad_token_id"],
        "attention": "auto",
        "dtype": "float32",
        "scan_layers": True,
        "remat": "none",
    }
    if not seq2seq:
        return ModelConfig(
            **shared,
            hidden_size=need("hidden_size"),
            mlp_size=need("intermediate_size"),
            num_heads=need("num_attention_heads"),
            encoder_layers=need("num_hidden_layers"),
            decoder_layers=0,
            max_positions=need("max_position_embeddings") - UNUSED_POSITIONS,
            attention_fusion="none",
            embedding_norm=True,
            norm_epsilon=values.get("layer_norm_eps", 1e-12),
            dropout=values.get("hidden_dropout_prob", 0.1),
            attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
            initializer_range=values.get("initializer_range", 0.02),
        )
    return ModelConfig(
        **shared,
        hidden_size=need("d_model"),
        mlp_size=need("encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"),
        num_heads=need("encoder_attention_heads", "decoder_attention_heads", "attention_heads"),
        encoder_layers=need("encoder_layers"),
        decoder_layers=need("decoder_layers"),
        max_positions=need("max_position_embeddings"),
        attention_fusion=values.get("attention_fusion", "none"),
        embedding_norm=values.get("embedding_norm", True),
        norm_epsilon=values.get("layer_norm_eps", _BART_EPSILON),
        dropout=values.get("dropout", 0.1),
        attention_dropout=values.get("attention_dropout", 0.0),
        initializer_range=values.get("init_std", 0.02),
    )
