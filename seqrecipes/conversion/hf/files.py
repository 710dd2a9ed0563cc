"""Files of weights: safetensors written tensor by tensor, safetensors and torch files read lazily.

The safetensors library writes what is in memory already; a large model is not. The format is a
length (8 bytes, little-endian), a header in JSON and the data, so that a file can be written in one
pass once all shapes are known. Reading is the library's.
"""

from __future__ import annotations

import json
import math
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors

from seqrecipes.errors import UserError

SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
_NAME = "model.safetensors"
_SAFE = (_NAME, INDEX)
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
FLOATS = ("F64", "F32", "F16", "BF16")  # types of parameters, as safetensors calls them


def write(
    folder: pathlib.Path,
    shapes: Mapping[str, tuple[int, ...]],
    arrays: Iterable[tuple[str, np.ndarray]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes float32 tensors to one `model.safetensors`, or to shards with an index.

    One tensor is held at a time, beside what `arrays` holds.

    Args:
      folder: exists.
      shapes: {name: shape} in order.
      arrays: the tensors, in the same order.
      shard_bytes: largest size of a file; a larger tensor has a file of its own.
    """
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    count = len(shards)
    files = (
        [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        if count > 1
        else [_NAME]
    )
    stream = iter(arrays)
    for file, names in zip(files, shards, strict=True):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name in names:
            end = offset + sizes[name]
            header[name] = {
                "dtype": "F32",
                "shape": list(shapes[name]),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as output:
            output.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                given, array = next(stream)
                assert given == name and array.shape == shapes[name], (given, name, array.shape)
                output.write(np.ascontiguousarray(array, "<f4").data)
    if count > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {
                name: file for file, names in zip(files, shards, strict=True) for name in names
            },
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


class Weights:
    """The tensors of a folder, read one at a time.

    Args:
      folder: holds `model.safetensors`, its shards with an index, or the same as
        `pytorch_model.bin`, which is read by PyTorch's loader of plain tensors and runs no code.

    Attributes:
      shapes: {name: shape}.
      types: {name: type}, as safetensors calls it.

    Raises:
      UserError: no such file, one that is damaged or cut off, or one that lies elsewhere.
    """

    def __init__(self, folder: pathlib.Path):
        names = (*_SAFE, *_PICKLED)
        found = next((inside(folder, name) for name in names if (folder / name).is_file()), None)
        if found is None:
            raise UserError(
                "CHECKPOINT",
                str(folder),
                f"holds none of {', '.join(names)}; name a folder of a model",
            )
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self._readers: dict[str, Callable[[str], np.ndarray]] = {}
        for file in _shards(found):
            opened = (_open_safetensors if found.name in _SAFE else _open_pickled)(file)
            if twice := self.shapes.keys() & opened.shapes.keys():
                raise UserError(
                    "CHECKPOINT", str(file), f"{min(twice)} is in another shard too; fetch it again"
                )
            self.shapes |= opened.shapes
            self.types |= opened.types
            self._readers |= dict.fromkeys(opened.shapes, opened.read)

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        return self._readers[name](name).astype(np.float32, copy=False)


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """A file of a folder.

    A link may lead to another file of the folder, or where Hugging Face's cache keeps them: from
    `snapshots/<revision>` to `blobs` beside it.

    Raises:
      UserError: the name is that of a file elsewhere, or a link leads elsewhere.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(
            "CHECKPOINT", str(folder), f"names {name!r}, which is no file of the folder"
        )
    home = folder.resolve()
    places = [home]
    if home.parent.name == "snapshots":
        places.append(home.parent.parent / "blobs")
    target = (folder / name).resolve()
    if not any(target.is_relative_to(place) for place in places):
        raise UserError(
            "CHECKPOINT",
            str(folder / name),
            f"links to {target}, outside the folder; put the file itself there",
        )
    return folder / name


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
      UserError: the file holds none.
    """
    try:
        values = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError("CHECKPOINT", str(file), f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError("CHECKPOINT", str(file), "not a configuration")
    return values


def _shards(file: pathlib.Path) -> Sequence[pathlib.Path]:
    if not file.name.endswith(".index.json"):
        return [file]
    try:
        names = json.loads(file.read_text("utf-8"))["weight_map"].values()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError("CHECKPOINT", str(file), "not an index of shards") from error
    shards = sorted({inside(file.parent, name) for name in names})
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError("CHECKPOINT", str(file), f"these shards are missing: {', '.join(missing)}")
    return shards


class _Opened(NamedTuple):
    """Shapes and types of a file's tensors, and what reads one of them."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    read: Callable[[str], np.ndarray]


def _open_safetensors(path: pathlib.Path) -> _Opened:
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UserError(
            "CHECKPOINT", str(path), f"damaged or cut off ({error}); fetch it again"
        ) from error
    parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return _Opened(
        {name: tuple(part.get_shape()) for name, part in parts.items()},
        {name: part.get_dtype() for name, part in parts.items()},
        file.get_tensor,
    )


def _open_pickled(path: pathlib.Path) -> _Opened:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "CHECKPOINT", str(path), "reading it needs torch: pip install 'seqrecipes[hf]'"
        ) from error
    try:
        tensors = torch.load(
            # Files older than PyTorch 1.6 are no zip archives and cannot be mapped.
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path),
        )
    except Exception as error:  # its kinds differ from version to version
        reason = str(error).split("\n")[0]
        raise UserError(
            "CHECKPOINT",
            str(path),
            f"damaged, or more than plain tensors, which are all that is read ({reason})",
        ) from error
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    types = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
    }
    return _Opened(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: types.get(tensor.dtype, str(tensor.dtype)) for name, tensor in tensors.items()},
        lambda name: tensors[name].float().numpy(),
    )
