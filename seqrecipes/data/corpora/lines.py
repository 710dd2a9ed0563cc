"""Lines and paragraphs of files that may be damaged, with bounded memory.

Files are decoded as text, through gzip where their name says so; nothing is ever unpickled,
executed or unpacked to disk.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from seqrecipes.data.corpora import contents
from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.errors import UserError

NUL = "holds the character NUL; the file may be UTF-16, or no text: convert it to UTF-8"
_SKIM_BYTES = 1 << 16
_BUFFER = 1 << 16
_NO_SPACES = {"ja", "zh", "th", "lo", "km", "my"}  # written without spaces between sentences


@dataclasses.dataclass(frozen=True)
class File:
    """A file as it was when the corpus was made.

    Attributes:
      field: the setting that named it.
      path: where it is.
      name: the part of the path that stays when the whole text is moved.
      size: in bytes, on disk.
      mtime_ns: time of its last change.
      inode: its device and number there, the same by whatever path it is reached.
    """

    field: str
    path: Path
    name: str
    size: int
    mtime_ns: int
    inode: tuple[int, int] = dataclasses.field(default=(0, 0), compare=False)

    @classmethod
    def at(cls, field: str, path: Path, name: str) -> File:
        """The file of that path.

        Raises:
          UserError: it cannot be read, or is a pipe or the like.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(field, str(path), f"cannot be read: {error.strerror}.") from error
        if not stat.S_ISREG(found.st_mode):
            raise UserError(field, str(path), "this is no file; name files of text.")
        inode = found.st_dev, found.st_ino
        return cls(field, path, name, found.st_size, found.st_mtime_ns, inode)

    @property
    def version(self) -> contents.Version:
        """What its checksum is remembered by."""
        return contents.Version(os.path.abspath(self.path), self.size, self.mtime_ns)

    def bad(self, problem: str) -> BadRecord:
        """What is wrong with the file."""
        # A name that is not UTF-8 must not break whatever writes the report.
        where = os.fsencode(self.path).decode(errors="backslashreplace")
        return BadRecord(self.field, where, f"{problem}.")

    def bad_line(self, number: int, problem: str) -> BadRecord:
        """What is wrong with a line of the file; lines count from 1."""
        bad = self.bad(f"this line {problem}")
        return dataclasses.replace(bad, where=f"{bad.where}:{number}")


class CutOff(Exception):
    """The rest of a file cannot be read; `record` stands for it."""

    def __init__(self, record: BadRecord):
        super().__init__(record.problem)
        self.record = record


def read_lines(file: File, max_bytes: int) -> Iterator[str | BadRecord]:
    """The lines of a text file, decompressed and decoded; one item for every line.

    A line that is not UTF-8, has more than `max_bytes` or holds a NUL (as lines of UTF-16 do) is a
    `BadRecord`. Too long a line is never held as a whole. A byte-order mark may stand in front of
    the first line.

    Raises:
      CutOff: while iterating, where the file cannot be read on.
      UserError: at the end, if the file is not what it was when it was read before.
    """
    number = 0
    try:
        with contents.Hashing(file.path) as raw:
            stream = _open(file.path, raw)
            while data := stream.readline(max_bytes + 1):
                number += 1
                if len(data) > max_bytes and not data.endswith(b"\n"):
                    size = len(data) + _skim(stream)
                    yield file.bad_line(
                        number,
                        f"has {size:,} bytes, more than max_document_bytes = {max_bytes:,}; cut it "
                        "or raise the limit",
                    )
                    continue
                yield _decode(file, number, data)
            if not number and file.path.suffix == ".gz" and not os.fstat(raw.fileno()).st_size:
                raise EOFError("the file is empty")  # which gzip takes for no text
            contents.check(file.field, file.version, raw.finish())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"cannot be decompressed ({error}), cut off after line {number:,}"
        raise CutOff(file.bad(f"{problem}; fetch the file again")) from error
    except OSError as error:
        after = f" after line {number:,}" if number else ""
        raise CutOff(file.bad(f"cannot be read{after}: {error.strerror or error}")) from error


def _decode(file: File, number: int, data: bytes) -> str | BadRecord:
    if b"\0" in data:
        return file.bad_line(number, NUL)
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        return file.bad_line(number, "is not valid UTF-8; convert the file to UTF-8")


def _open(path: Path, raw: io.RawIOBase) -> BinaryIO:
    buffered = io.BufferedReader(raw, _BUFFER)
    return cast(BinaryIO, gzip.GzipFile(fileobj=buffered) if path.suffix == ".gz" else buffered)


def _skim(stream: BinaryIO) -> int:
    """Goes to the end of the line; returns the bytes passed, its end not counted."""
    passed = 0
    while chunk := stream.readline(_SKIM_BYTES):
        passed += len(chunk)
        if chunk.endswith(b"\n"):
            return passed - 1
    return passed


def paragraphs(
    lines: Iterable[str | BadRecord], file: File, max_bytes: int
) -> Iterator[list[str] | BadRecord]:
    """The stripped lines between blank lines; one `BadRecord` for a paragraph with a bad line.

    A paragraph of more than `max_bytes` is a `BadRecord` too and never held as a whole. One that
    the file's damage cuts off belongs to the rest of the file that cannot be read.
    """
    paragraph: list[str] = []
    bad: BadRecord | None = None
    start = size = 0
    for number, line in enumerate(itertools.chain(lines, [""]), start=1):
        if isinstance(line, BadRecord):
            paragraph, bad = [], bad or line
        elif text := line.strip():
            if bad:
                continue
            if not paragraph:
                start, size = number, 0
            paragraph.append(text)
            size += len(text.encode()) + 1
            if size > max_bytes + 1:  # the last sentence needs no space
                problem = f"begins a document of more than max_document_bytes = {max_bytes:,}"
                paragraph, bad = [], file.bad_line(start, f"{problem}; cut it or raise the limit")
        else:
            if bad or paragraph:
                yield bad or paragraph
            paragraph, bad = [], None


def join_sentences(sentences: Iterable[str], language: str) -> str:
    """Joins sentences with a space, in languages that write one between them."""
    return ("" if language.partition("_")[0].lower() in _NO_SPACES else " ").join(sentences)
