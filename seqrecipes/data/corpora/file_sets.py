"""Which files a user's folders and globs name, and how they are grouped into shards."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from seqrecipes.data.corpora.lines import File
from seqrecipes.errors import UserError

Unit = tuple[File, ...]  # files that are read side by side


def find_files(field: str, patterns: str | Sequence[str], suffixes: tuple[str, ...]) -> list[File]:
    """The files of folders (with their subfolders), globs and paths, each file once.

    They come in the order of `patterns`, and those of one pattern sorted by name, so that the order
    stays when the text is moved. In folders, what does not end in `suffixes` or is hidden is left
    alone. Links are followed; a file with several names is read once.

    Raises:
      UserError: nothing is found, it cannot be read, or a path or glob names another kind of file.
    """
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found: dict[tuple[int, int], File] = {}
    for pattern in patterns:
        if not str(pattern):
            raise UserError(field, pattern, "name a folder or a glob.")
        root, names = _match(field, Path(pattern).expanduser(), suffixes)
        for name in sorted(names):
            file = File.at(field, root / name, name)
            found.setdefault(file.inode, file)
    if not found:
        raise UserError(field, list(patterns), "name a folder or a glob.")
    return list(found.values())


def group(units: Iterable[Unit], shard_bytes: int) -> list[list[Unit]]:
    """Consecutive units whose files together have `shard_bytes` on disk, or just more."""
    shards: list[list[Unit]] = []
    size = shard_bytes
    for unit in units:
        if size >= shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(unit)
        size += sum(file.size for file in unit)
    return shards


def describe(names: Iterable[str]) -> str:
    """Some of the names, for a message."""
    names = sorted(names)
    return ", ".join([*names[:5], *(["..."] if names[5:] else [])]) or "nothing"


def _match(field: str, path: Path, suffixes: tuple[str, ...]) -> tuple[Path, list[str]]:
    """A pattern's fixed part, and what it matches, relative to that."""
    known = ", ".join(suffixes)
    if path.is_dir():
        inside = list(_inside(field, path))
        names = [name for name in inside if name.endswith(suffixes)]
        if not names:
            problem = f"no {known} file in this folder; it holds {describe(inside)}."
            raise UserError(field, str(path), problem)
        return path, names
    parts = path.parts
    magic = [] if path.exists() else [i for i, p in enumerate(parts) if glob.escape(p) != p]
    fixed = magic[0] if magic else len(parts) - 1
    root = Path(*parts[:fixed])
    pattern = os.path.join(*parts[fixed:])
    matches = glob.glob(pattern, root_dir=root, recursive=True) if magic else [pattern]
    names = [
        name for name in matches if os.path.lexists(root / name) and not (root / name).is_dir()
    ]
    if not names:
        raise UserError(field, str(path), "no such file or folder; check the path or glob.")
    for name in names:
        if not name.endswith(suffixes):
            raise UserError(field, str(root / name), f"files must end in {known}.")
    return root, names


def _inside(field: str, folder: Path) -> Iterator[str]:
    """The names of all files of a folder, relative to it, hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise UserError(field, str(error.filename), f"cannot be read: {error.strerror}.")

    seen = set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        # A link may lead back to where it is.
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)
