"""Where a run's labelled data lies, kept as data beside its checkpoints.

`evaluate` needs these two values and nothing else of the run's configuration. They are JSON and not
gin: who opens a checkpoint of somebody else must not run what its folder names.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import gin

from seqrecipes.errors import UserError
from seqrecipes.folders import write_file

FILE = "data.json"
_FILES, _TFDS = "LabelledFiles.folder", "LabelledTfds.data_dir"


def write(run_dir: pathlib.Path) -> None:
    """Writes the places that gin has now, as absolute paths, into a run's folder."""
    from seqrecipes.data.labelled.local_files import LabelledFiles
    from seqrecipes.data.seqio.tfds_sets import LabelledTfds

    folder = LabelledFiles().folder
    if isinstance(folder, Mapping):
        found: Any = {name: _absolute(path) for name, path in folder.items()}
    else:
        found = _absolute(folder)
    content = {_FILES: found, _TFDS: _absolute(LabelledTfds().data_dir)}
    write_file(run_dir / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def bind(run_dir: pathlib.Path) -> None:
    """Gives gin the places of a run, if its folder has them; what is parsed afterwards wins.

    Raises:
      UserError: the file holds something else than paths.
    """
    file = run_dir / FILE
    if not file.is_file():
        return
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(str(file), "", f"cannot be read: {error}") from error
    if not isinstance(content, dict) or content.keys() != {_FILES, _TFDS}:
        raise UserError(str(file), content, f"should hold {_FILES} and {_TFDS}")
    for name, value in content.items():
        nested = value if name == _FILES and isinstance(value, dict) else {"": value}
        if not all(each is None or isinstance(each, str) for each in nested.values()):
            raise UserError(str(file), value, f"{name} should be a path")
    with gin.unlock_config():
        for name, value in content.items():
            gin.bind_parameter(name, value)


def _absolute(path: str | None) -> str | None:
    # A path in a bucket stays as it is.
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))
