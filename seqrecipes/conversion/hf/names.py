"""One table of names: our parameters, and the tensors of Hugging Face's classes that hold them.

A tensor of theirs is one layer of one leaf of ours. It differs in shape alone: a kernel
[in, ...out] lies there as [out, in], and a position table has two unused rows before ours. Export
and import both read this table, each in its direction.

Letters: D hidden size, F feed-forward size, H heads, K head size, L layers, N positions, V pieces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from seqrecipes import tree
from seqrecipes.models import ModelConfig

# RoBERTa counts positions from the padding id on, and BART took its tables over.
UNUSED_POSITIONS = 2

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "query": "fusion_query"}

_ROBERTA_LAYER = {
    "self_attention/query": "attention.self.query",
    "self_attention/key": "attention.self.key",
    "self_attention/value": "attention.self.value",
    "self_attention/output": "attention.output.dense",
    "mlp/input": "intermediate.dense",
    "mlp/output": "output.dense",
}
_ROBERTA_NORMS = {
    "pre": {
        "self_attention_norm": "attention.LayerNorm",
        "mlp_norm": "intermediate.LayerNorm",
    },
    "post": {
        "self_attention_norm": "attention.output.LayerNorm",
        "mlp_norm": "output.LayerNorm",
    },
}
_ROBERTA_HEAD = {
    "mlm_head/dense": "lm_head.dense",
    "mlm_head/norm": "lm_head.layer_norm",
    "mlm_head/projection": "lm_head.decoder",
}
_BART_LAYER = {
    **{
        f"{ours}_attention/{part}": f"{theirs}.{letter}_proj"
        for ours, theirs in (("self", "self_attn"), ("cross", "encoder_attn"))
        for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out"))
    },
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "mlp/input": "fc1",
    "mlp/output": "fc2",
    "mlp_norm": "final_layer_norm",
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file of theirs.

    Attributes:
      key: its name there.
      shape: its shape there.
      path: our leaf, or None for a tensor of zeros that we have no use for.
      layer: index on the leaf's first axis, or None for the whole leaf.
    """

    key: str
    shape: tuple[int, ...]
    path: str | None = None
    layer: int | None = None

    def to_hf(self, leaf: np.ndarray) -> np.ndarray:
        """This tensor out of our leaf; rows of a table past its vocabulary are cut off."""
        assert self.path is not None
        array = leaf if self.layer is None else leaf[self.layer]
        if self.path.endswith("/kernel"):
            return array.reshape(self.shape[::-1]).T
        if self.path.endswith("position/embedding"):
            return np.pad(array, ((UNUSED_POSITIONS, 0), (0, 0)))
        return array.reshape(-1, *self.shape[1:])[: self.shape[0]]

    def from_hf(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Our leaf, or our layer of it, of the given shape."""
        assert self.path is not None
        if self.path.endswith("/kernel"):
            array = array.T
        elif self.path.endswith("position/embedding"):
            array = array[UNUSED_POSITIONS:]
        return array.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """All tensors of a model in one of their formats.

    Attributes:
      base: name of the module that holds everything but the head; a file of the bare model leaves
        it out.
      tensors: in the order of our leaves, so that each leaf is needed once.
    """

    base: str
    tensors: tuple[Tensor, ...]


def layout(config: ModelConfig, model_type: str, shapes: tree.Tree) -> Layout:
    """The tensors of a model.

    Args:
      config: the model, with as many rows in its tables as the tensors shall have.
      model_type: a key of `seqrecipes.conversion.hf.config.ARCHITECTURES`.
      shapes: nested dictionary of our parameters' shapes.
    """
    if config.decoder_layers:
        base, modules = "model", _bart_modules(config, model_type)
    else:
        base = "roberta_prelayernorm" if config.norm == "pre" else "roberta"
        modules = _roberta_modules(config, base)
    tensors: list[Tensor] = []
    for path, leaf in tree.flatten(shapes).items():
        module, _, name = path.rpartition("/")
        for prefix in modules[module]:
            key = f"{prefix}.{LEAVES.get(name, name)}"
            if "{}" in key:
                shape = _shape(path, leaf.shape[1:], config)
                tensors += [Tensor(key.format(i), shape, path, i) for i in range(leaf.shape[0])]
            else:
                tensors.append(Tensor(key, _shape(path, leaf.shape, config), path))
    if not config.decoder_layers:
        types = f"{base}.embeddings.token_type_embeddings.weight"
        tensors.append(Tensor(types, (1, config.hidden_size)))
    elif model_type != "seqrecipes":
        tensors.append(Tensor("final_logits_bias", (1, config.vocab_size)))
    return Layout(base, tuple(tensors))


def _shape(path: str, shape: tuple[int, ...], config: ModelConfig) -> tuple[int, ...]:
    """The shape over there of a leaf, or of a layer of it."""
    if path.endswith("/kernel"):
        inputs = 2 if path.endswith("attention/output/kernel") else 1
        return int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs]))
    if path.endswith("position/embedding"):
        return shape[0] + UNUSED_POSITIONS, shape[1]
    if is_vocabulary(path):
        return config.vocab_size, *shape[1:]
    size = int(np.prod(shape))
    if path.endswith("fusion/query"):
        return size // config.hidden_size, config.hidden_size
    return (size,)


def is_vocabulary(path: str) -> bool:
    """Whether the leaf has a row for every piece."""
    return path in (
        "token_embedding/embedding",
        "lm_head/embedding",
        "mlm_head/projection/embedding",
        "mlm_head/bias",
    )


def _roberta_modules(config: ModelConfig, base: str) -> Mapping[str, tuple[str, ...]]:
    layer = _ROBERTA_LAYER | _ROBERTA_NORMS[config.norm]
    modules = {
        "token_embedding": (f"{base}.embeddings.word_embeddings",),
        "encoder/embedding/position": (f"{base}.embeddings.position_embeddings",),
        "encoder/embedding/norm": (f"{base}.embeddings.LayerNorm",),
        "encoder/stack/final_norm": (f"{base}.LayerNorm",),
        # An untied head keeps its bias twice, and computes with the second one.
        "mlm_head": ("lm_head",) if config.tie_head else ("lm_head", "lm_head.decoder"),
    }
    modules |= {ours: (theirs,) for ours, theirs in _ROBERTA_HEAD.items()}
    for ours, theirs in layer.items():
        modules[f"encoder/stack/layers/{ours}"] = (f"{base}.encoder.layer.{{}}.{theirs}",)
    return modules


def _bart_modules(config: ModelConfig, model_type: str) -> Mapping[str, tuple[str, ...]]:
    tables = ["model.shared"]
    if not config.tie_head and model_type != "seqrecipes":
        # Without ties these classes have three tables, and compute with the last two.
        tables += ["model.encoder.embed_tokens", "model.decoder.embed_tokens"]
    modules: dict[str, tuple[str, ...]] = {
        "token_embedding": tuple(tables),
        "lm_head": ("lm_head",),
        # Of the encoder's layers alone, hence computed there.
        "decoder/fusion": ("model.encoder",),
        "decoder/stack/layers/fusion": ("model.encoder",),
    }
    for side in ("encoder", "decoder"):
        modules |= {
            f"{side}/embedding/position": (f"model.{side}.embed_positions",),
            f"{side}/embedding/norm": (f"model.{side}.layernorm_embedding",),
            f"{side}/stack/final_norm": (f"model.{side}.layer_norm",),
        }
        for ours, theirs in _BART_LAYER.items():
            modules[f"{side}/stack/layers/{ours}"] = (f"model.{side}.layers.{{}}.{theirs}",)
    return modules
