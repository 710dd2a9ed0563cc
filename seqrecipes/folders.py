"""Names in output folders, files of the clone, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from seqrecipes.errors import UserError

# Of a finished seed of a fine-tuning, in its folder.
SCORES_FILE = "scores.json"
# Of a finished stage, in its folder: see `seqrecipes.samples`.
PREDICTIONS_FILE = "predictions.json"
# What the package is used from: gin/, configs/ and tasks/ lie beside it.
CLONE = pathlib.Path(__file__).resolve().parents[1]


def shipped(path: str | pathlib.Path) -> pathlib.Path:
    """A file by its name here, or else by its name in the clone, as 'configs/roberta_12e.py'."""
    here, there = pathlib.Path(path), CLONE / path
    return here if here.exists() or not there.is_file() else there


def check_writable(folder: str | pathlib.Path, field: str) -> None:
    """Refuses a folder, there or still to be made, into which nothing can be written.

    Raises:
      UserError: `field` says where it was named.
    """
    path = pathlib.Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    try:
        # Permissions alone do not tell: of a full or a read-only disk they say nothing.
        with tempfile.TemporaryDirectory(prefix=".", dir=there):
            pass
    except OSError as error:
        problem = error.strerror if there.is_dir() else f"{there} is a file"
        raise UserError(field, str(folder), f"cannot be written: {problem}") from error


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to fill; it gets its name when the block ends well, else it is removed.

    Raises:
      UserError: the name is taken.
    """
    if folder.exists():
        raise UserError("OUT_DIR", str(folder), "exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's own is private
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
