"""Checksums of files of text: what a file held when it was read first, remembered and compared.

Text is told apart by its content alone. Of a file that still has its size and its time of last
change the checksum is not made again, neither in this process nor, with `load` and `save`, in a
later one; and whoever reads a file to its end compares what was read with what is remembered, so
that text cannot change unseen between two readings. A gigabyte takes a second or two, a hundredth
of what it takes to tokenize it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from tqdm import tqdm

from seqrecipes.errors import UserError

MEMORY_FILE = "text.json"
_CHUNK = 1 << 18


class Version(NamedTuple):
    """A file as it was found: where, bytes on disk, and time of its last change."""

    path: str
    size: int
    mtime_ns: int


_KNOWN: dict[Version, str] = {}  # sha256 in hexadecimal


class Hashing(io.RawIOBase):
    """A file's bytes as they are read, and their checksum in the end."""

    def __init__(self, path: str | os.PathLike[str]):
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 -- closed with this
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def fileno(self) -> int:
        """See `io.RawIOBase`."""
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        count = self._file.readinto(buffer) or 0
        self._sha256.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        """See `io.RawIOBase`."""
        self._file.close()
        super().close()

    def finish(self) -> str:
        """Reads what is left; sha256 of the whole file, in hexadecimal."""
        while self.read(_CHUNK):
            pass
        return self._sha256.hexdigest()


def check(field: str, version: Version, sha256: str) -> None:
    """Remembers what a file held, or compares it with what it held before.

    Raises:
      UserError: it is something else by now.
    """
    if _KNOWN.setdefault(version, sha256) != sha256:
        raise UserError(
            field,
            version.path,
            "changed while it was read; leave the text alone until it is packed, and start again.",
        )


def checksums(field: str, versions: Iterable[Version]) -> list[str]:
    """sha256 of files; those that are not known are read, with a bar if that takes a while.

    Raises:
      UserError: a file cannot be read, or is another one than was found.
    """
    versions = list(versions)
    missing = [version for version in versions if version not in _KNOWN]
    with tqdm(
        desc="checksums of the text",
        total=sum(version.size for version in missing),
        unit="B",
        unit_scale=True,
        delay=3,
        disable=not sys.stderr.isatty(),
    ) as progress:
        for version in missing:
            try:
                with Hashing(version.path) as file:
                    digest = file.finish()
                    stat = os.fstat(file.fileno())
            except OSError as error:
                problem = f"cannot be read: {error.strerror}."
                raise UserError(field, version.path, problem) from error
            if (stat.st_size, stat.st_mtime_ns) != version[1:]:
                problem = "changed since it was found; leave the text alone, and start again."
                raise UserError(field, version.path, problem)
            check(field, version, digest)
            progress.update(version.size)
    return [_KNOWN[version] for version in versions]


def remembered() -> Mapping[Version, str]:
    """All checksums that this process knows."""
    return dict(_KNOWN)


def remember(known: Mapping[Version, str]) -> None:
    """Takes over what another process knows."""
    for version, digest in known.items():
        _KNOWN.setdefault(version, digest)


def load(path: epath.Path | Path) -> None:
    """Takes over what `save` wrote; a file that is not there or is damaged says nothing."""
    try:
        rows = json.loads(path.read_text("utf-8"))
        remember({Version(*row[:3]): str(row[3]) for row in rows})
    except (OSError, ValueError, TypeError, IndexError):
        return


def save(path: epath.Path | Path, versions: Iterable[Version]) -> None:
    """Writes the checksums of files, in place of what was there."""
    rows = [[*version, _KNOWN[version]] for version in versions if version in _KNOWN]
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(rows, indent=0) + "\n", "utf-8")
    temporary.replace(path)
