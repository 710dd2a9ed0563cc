"""Export of a fine-tuned labeller: transformers' own encoder under heads of ours.

transformers has no class with such heads, so that one of ours (`labelling_seqrecipes.py`) lies
beside the weights.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from seqrecipes import models, tree
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import export
from seqrecipes.conversion.hf.names import LEAVES, Layout, Tensor, layout
from seqrecipes.models import Labeller

Labels = Mapping[str, Sequence[str]]  # {head: labels in the order of the model's ids}


# Names of the heads: what opens such a model, the class that it opens, the pipeline that takes it.
_CLASSES = {
    ("label",): (
        "AutoModelForSequenceClassification",
        "SeqRecipesForSequenceClassification",
        "text-classification",
    ),
    ("words",): (
        "AutoModelForTokenClassification",
        "SeqRecipesForTokenClassification",
        "token-classification",
    ),
    ("label", "words"): ("AutoModel", "SeqRecipesForJointLabelling", ""),
}


def auto_class(labels: Labels) -> str:
    """The class of transformers that opens a model with these heads."""
    return _of(labels)[0]


def pipeline(labels: Labels) -> str:
    """The pipeline of transformers that takes such a model; empty where there is none."""
    return _of(labels)[2]


def _of(labels: Labels) -> tuple[str, str, str]:
    return _CLASSES[tuple(sorted(labels))]


def export_labeller(
    folder: pathlib.Path,
    model: Labeller,
    labels: Labels,
    read: export.Read,
    *,
    vocabulary: bytes,
) -> None:
    """Writes a labeller; weights, configuration, tokenizer and the class.

    Args:
      folder: exists and is empty.
      model: ours. Rows of its token table past the vocabulary are cut off.
      labels: of each head.
      read: gives the leaf of a path in float32; called once for each.
      vocabulary: the SentencePiece model.

    Raises:
      UserError: no class can express the encoder, or the vocabulary is not the model's.
    """
    encoder = export.cut(export.encoder_of(model.config), vocabulary)
    kind = hf_config.model_type(encoder)
    bare = export.without_head(layout(encoder, kind, models.parameter_shapes(encoder)))
    export.write(
        folder,
        _layout(model, bare),
        read,
        values(model, labels, hf_config.to_hf(encoder, headless=True)),
        vocabulary=vocabulary,
        max_length=encoder.max_positions,
    )


def _layout(model: Labeller, encoder: Layout) -> Layout:
    tensors = [
        dataclasses.replace(tensor, key=f"encoder.{tensor.key}") for tensor in encoder.tensors
    ]
    for path, leaf in tree.flatten({"heads": models.shapes(model)["heads"]}).items():
        module, _, name = path.rpartition("/")
        key = f"{module.replace('/hidden_', '/hidden/').replace('/', '.')}.{LEAVES.get(name, name)}"
        tensors.append(Tensor(key, leaf.shape[::-1], path))
    return Layout("encoder", tuple(tensors))


def values(model: Labeller, labels: Labels, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of `config.json`."""
    auto, ours, _ = _of(labels)
    module = hf_config.LABELLING_FILE.removesuffix(".py")
    values: dict[str, Any] = {
        "model_type": hf_config.LABELLER,
        "architectures": [ours],
        "auto_map": {"AutoConfig": f"{module}.SeqRecipesLabellerConfig", auto: f"{module}.{ours}"},
        "dtype": encoder["dtype"],
        **hf_config.SPECIAL_IDS,
        "encoder_config": {
            # The type of the weights is that of the whole model.
            name: value
            for name, value in encoder.items()
            if name not in ("dtype", "architectures")
        },
        "heads": {
            head.name: {"reads": head.reads, "hidden": list(head.hidden)}
            # Of one head alone they are in `id2label`, as everywhere in transformers.
            | ({"labels": list(labels[head.name])} if len(labels) > 1 else {})
            for head in model.shapes
        },
    }
    if len(labels) == 1:
        (names,) = labels.values()
        values["id2label"] = {str(index): name for index, name in enumerate(names)}
        values["label2id"] = {name: index for index, name in enumerate(names)}
    return values
