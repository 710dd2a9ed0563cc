"""Import: a folder of Hugging Face's format into our parameters, straight onto a mesh.

Every tensor of the files is accounted for: taken, or left behind for a stated reason. One that is
missing, unknown or of another shape ends the import with the whole list.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seqrecipes import models, tree
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf.files import FLOATS, Weights, inside, read_json
from seqrecipes.conversion.hf.names import Tensor, layout
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.training.partitioning import Placement

_TYPES = "token_type_embeddings.weight"
_LOGITS_BIAS = "final_logits_bias"

# What files may hold beside the model proper.
_LEFT = (
    (r".*embeddings\.position_ids", "positions are counted"),
    (r"(.*\.)?pooler\..*", "no head of ours reads it"),
)
# What some versions write of a tied model: {copy: original}, both without the base model's name.
_TIED = {
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
    "lm_head.weight": "shared.weight",
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of theirs as one of ours.

    Attributes:
      config: our configuration.
      params: nested dictionary, laid out as asked.
      notes: what was more than renamed, a line each.
    """

    config: ModelConfig
    params: dict[str, Any]
    notes: tuple[str, ...]


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The contents of `config.json`.

    Raises:
      UserError: there is no such folder, or no such file in it.
    """
    file = inside(folder, "config.json")
    if not file.is_file():
        what = "holds no config.json" if folder.is_dir() else "is no folder"
        remedy = "name a folder of a model (`hf download NAME --local-dir FOLDER` fetches one)"
        raise UserError("CHECKPOINT", str(folder), f"{what}; {remedy}")
    return read_json(file)


def load(
    folder: pathlib.Path,
    *,
    placement: Placement,
    seed: int = 0,
) -> Imported:
    """Reads the weights of a folder, one of our leaves at a time.

    Args:
      folder: `config.json` and the weights.
      placement: gives {path: sharding} for a nested dictionary of shapes.
      seed: of a masked-language-model head, where the files have none.

    Raises:
      UserError: the folder is no checkpoint, or one that our models cannot take over.
    """
    values = read_config(folder)
    config = hf_config.from_hf(values)
    source = _Source(folder, values, config)
    shapes = models.parameter_shapes(config)
    shardings = placement(shapes)
    head = jax.jit(lambda: models.init_params(config, seed).get("mlm_head"))
    new = tree.flatten({"mlm_head": head()}) if source.headless else {}
    params = {}
    for path, leaf in tree.flatten(shapes).items():
        if path in new and not path.startswith("mlm_head/projection"):
            value = np.asarray(new[path])
        else:
            value = source.leaf(path, leaf.shape)
        params[path] = jax.make_array_from_callback(leaf.shape, shardings[path], value.__getitem__)
    return Imported(config, tree.unflatten(params), tuple(source.notes))


class _Source:
    """The tensors of a folder by our paths, checked against what the model needs."""

    def __init__(self, folder: pathlib.Path, values: Mapping[str, Any], config: ModelConfig):
        self._folder = folder
        self._weights = Weights(folder)
        self._tied = bool(values.get("tie_word_embeddings", True))
        self._scale = math.sqrt(config.hidden_size) if values.get("scale_embedding") else 1.0
        self.notes: list[str] = []

        in_files = dataclasses.replace(config, tie_head=self._tied)
        wanted = layout(in_files, values["model_type"], models.parameter_shapes(in_files))
        self._base = wanted.base
        self._names = self._find_names()
        classes = values.get("architectures") or ["Model"]
        self.headless = (
            not config.decoder_layers
            and classes[0].endswith("Model")
            and not any(key.startswith("lm_head.") for key in self._names)
        )
        tensors = [
            tensor
            for tensor in wanted.tensors
            if not (self.headless and tensor.key.startswith("lm_head."))
            # Versions before 5 wrote this bias under one of its two names, bare models none.
            and (
                tensor.key in self._names
                or tensor.key not in (_LOGITS_BIAS, "lm_head.decoder.bias")
            )
        ]
        self._check(tensors)
        self._tensors: dict[str, list[Tensor]] = {}
        for tensor in tensors:
            self._tensors.setdefault(tensor.path or tensor.key, []).append(tensor)
        if self.headless:
            self.notes.append("mlm_head: new, as the files have none")
        if self._scale != 1.0:
            self.notes.append(
                f"token_embedding: times {self._scale:g} (scale_embedding)"
                + (", and lm_head a table of its own without it" if self._tied else "")
            )

    def leaf(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """Our leaf, of the given shape."""
        if path in ("lm_head/embedding", "mlm_head/projection/embedding"):
            # Tied over there, or absent: ours starts as a copy of the table.
            path = path if path in self._tensors else "token_embedding/embedding"
            return self._assemble(path, shape)
        value = self._assemble(path, shape)
        if path == "token_embedding/embedding" and self._scale != 1.0:
            return value * np.float32(self._scale)
        if path == "encoder/embedding/position/embedding":
            return self._fold_types(value)
        return value

    def _assemble(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        tensors = self._tensors[path]
        if tensors[0].layer is None:
            # Of several tensors, the last one is what their forward pass reads.
            return tensors[-1].from_hf(self._read(tensors[-1].key), shape)
        result = np.empty(shape, np.float32)
        for tensor in tensors:
            result[tensor.layer] = tensor.from_hf(self._read(tensor.key), shape[1:])
        return result

    def _fold_types(self, positions: np.ndarray) -> np.ndarray:
        """Token type 0 is a constant, which belongs to the positions in our models."""
        key = f"{self._base}.embeddings.{_TYPES}"
        if key not in self._names:
            return positions
        types = self._read(key)
        if types.any():
            dropped = f", rows 1 to {len(types) - 1} left" if len(types) > 1 else ""
            self.notes.append(f"{key}: row 0 added to the positions{dropped}")
        return positions + types[0]

    def _read(self, key: str) -> np.ndarray:
        """A tensor.

        Raises:
          UserError: it holds values that are no finite numbers.
        """
        array = self._weights.read(self._names[key])
        if not np.isfinite(array).all():
            raise UserError(
                "CHECKPOINT",
                str(self._folder),
                f"{self._names[key]} holds {np.sum(~np.isfinite(array)):,} values that are no "
                "finite numbers; take a checkpoint from before they came up",
            )
        return array

    def _find_names(self) -> dict[str, str]:
        """{name as a model with a head has it: name in the files}, less what is left behind."""
        bare = not any(name.startswith(f"{self._base}.") for name in self._weights.shapes)
        names = {}
        for name in self._weights.shapes:
            reason = next((why for what, why in _LEFT if re.fullmatch(what, name)), None)
            if reason:
                self.notes.append(f"{name}: left, {reason}")
            elif bare and not name.startswith(("lm_head.", _LOGITS_BIAS)):
                names[f"{self._base}.{name}"] = name
            else:
                names[name] = name
        return names

    def _check(self, tensors: Sequence[Tensor]) -> None:
        """Each tensor is there and of its shape, and there is none besides.

        Raises:
          UserError: lists all that are not so.
        """
        types = {name: self._weights.types[name] for name in self._names.values()}
        if others := [f"{name} ({kind})" for name, kind in types.items() if kind not in FLOATS]:
            raise UserError(
                "CHECKPOINT",
                str(self._folder),
                f"tensors of other types than {', '.join(FLOATS)}: {', '.join(others)}; take a "
                "checkpoint that is not quantised",
            )
        shapes = {key: self._weights.shapes[name] for key, name in self._names.items()}
        wanted = {tensor.key: tensor.shape for tensor in tensors}
        problems = []
        for key, shape in wanted.items():
            if key.endswith(_TYPES) and shapes.get(key, shape)[1:] == shape[1:]:
                shape = shapes.get(key, shape)  # any number of types
            if key not in shapes:
                problems.append(f"{key} is missing")
            elif shapes[key] != shape:
                problems.append(f"{key} has the shape {shapes[key]}, not {shape}")
        for key in shapes.keys() - wanted.keys():
            original = _TIED.get(key) or _TIED.get(key.removeprefix(f"{self._base}."))
            if not self._tied or original is None:
                problems.append(f"{self._names[key]} is unexpected")
                continue
            if original != "lm_head.bias":
                original = f"{self._base}.{original}"
            if original in shapes and not self._equal(key, original):
                problems.append(f"{key} differs from {original}, but config.json ties them")
        tables = [f"{self._base}.{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
        if not self._tied and all(t in shapes for t in tables) and not self._equal(*tables):
            problems.append(f"{' and '.join(tables)} differ, but our models have one table")
        if _LOGITS_BIAS in shapes and self._read(_LOGITS_BIAS).any():
            problems.append(f"{_LOGITS_BIAS} is not zero, but our models have no such bias")
        if problems:
            raise UserError("CHECKPOINT", str(self._folder), "; ".join(sorted(problems)))

    def _equal(self, one: str, other: str) -> bool:
        return np.array_equal(self._read(one), self._read(other))
