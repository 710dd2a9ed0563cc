"""Corpora: where text comes from, as documents of one language at a time.

A corpus streams: nothing larger than a document is held. What a user can mend (a wrong path, a
damaged file) is a UserError that names the file and the line.
"""

from __future__ import annotations

import dataclasses
import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, Protocol

import gin

from seqrecipes.errors import UserError

Split = Literal["train", "validation"]
_SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
_NO_SPACES = {"ja", "zh", "th", "lo", "km", "my"}  # written without spaces between sentences


class Corpus(Protocol):
    """Documents in several languages, split for training and validation."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Their names, in a fixed order."""

    def documents(self, language: str, split: Split) -> Iterator[str]:
        """The documents of a language in a fixed order; some may be empty."""

    def fingerprint(self) -> str:
        """A hash that changes whenever the text may have changed."""


class SampleCorpus:
    """The bundled text: 26 short documents, parallel in 12 languages.

    Every 13th document is for validation, the same ones in all languages, so that no translation
    of a validation document is trained on.
    """

    _VALIDATION_EVERY = 13

    def __init__(self) -> None:
        self._folder = resources.files("seqrecipes.data") / "sample"
        names = (entry.name for entry in self._folder.iterdir())
        self.languages = tuple(sorted(n.removesuffix(".txt") for n in names if n.endswith(".txt")))

    def documents(self, language: str, split: Split) -> Iterator[str]:
        """See `Corpus.documents`."""
        lines = (self._folder / f"{language}.txt").read_text("utf-8").splitlines()
        return _select(_paragraphs(lines, language), split, self._VALIDATION_EVERY)

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`; of the text itself."""
        texts = [(self._folder / f"{name}.txt").read_bytes() for name in self.languages]
        return _digest(type(self).__name__, self.languages, [t.hex() for t in texts])


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles:
    """The user's own text: .txt, .txt.gz, .jsonl and .jsonl.gz files.

    Attributes:
      files: language -> a folder (read with its subfolders), a glob, or a list of these.
      document: what a document is in .txt files: a 'line', or the lines up to a 'blank_line'. In
        .jsonl files it is always a line.
      validation_every: every so many documents of a language, one is kept for validation.
      validation_files: like `files`, used for validation instead; `files` are then all trained on.
      json_field: the field of a .jsonl line that holds the text.
    """

    files: Mapping[str, str | Sequence[str]] | None = None
    document: Literal["line", "blank_line"] = "line"
    validation_every: int = 100
    validation_files: Mapping[str, str | Sequence[str]] | None = None
    json_field: str = "text"
    _paths: dict[str, dict[str, list[Path]]] = dataclasses.field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not self.files:
            raise UserError(
                "TextFiles.files",
                self.files,
                "no text given; set it to a folder or glob per language, such as "
                "{'en': 'texts/en/*.txt.gz'}.",
            )
        if self.document not in ("line", "blank_line"):
            raise UserError("TextFiles.document", self.document, "choose line or blank_line.")
        if self.validation_every < 2:
            raise UserError(
                "TextFiles.validation_every",
                self.validation_every,
                "choose 2 or more; otherwise nothing is left for training.",
            )
        paths = {"train": _expand("TextFiles.files", self.files)}
        if self.validation_files:
            paths["validation"] = _expand("TextFiles.validation_files", self.validation_files)
            if strangers := set(self.validation_files) - set(self.files):
                raise UserError(
                    "TextFiles.validation_files",
                    sorted(strangers),
                    f"these languages have no training files; TextFiles.files has "
                    f"{', '.join(sorted(self.files))}.",
                )
        object.__setattr__(self, "_paths", paths)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages in alphabetical order."""
        return tuple(sorted(self.files or ()))

    def documents(self, language: str, split: Split) -> Iterator[str]:
        """See `Corpus.documents`.

        Raises:
          UserError: while iterating, at a damaged file, or at the end if there was no text.
        """
        own_files = self.validation_files and split == "validation"
        paths = self._paths[split if own_files else "train"].get(language, [])
        documents = self._read(paths, language)
        if not self.validation_files:
            return _select(documents, split, self.validation_every)
        return documents

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`; of paths, sizes, modification times and settings."""
        stats = [
            (split, language, str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns)
            for split, languages in self._paths.items()
            for language, paths in sorted(languages.items())
            for path in paths
        ]
        settings = (self.document, self.validation_every, self.json_field)
        return _digest(type(self).__name__, stats, settings)

    def _read(self, paths: Iterable[Path], language: str) -> Iterator[str]:
        paths, has_text = list(paths), False
        for path in paths:
            lines = _lines(path)
            if ".jsonl" in path.name:
                documents = self._json_documents(path, lines)
            elif self.document == "line":
                documents = (line.strip() for line in lines)
            else:
                documents = _paragraphs(lines, language)
            for document in documents:
                has_text = has_text or bool(document)
                yield document
        if paths and not has_text:
            names = ", ".join(path.name for path in paths[:5])
            raise UserError(
                f"TextFiles.files[{language!r}]",
                str(paths[0].parent),
                f"there is no text in {len(paths)} file(s) ({names}); name files with text.",
            )

    def _json_documents(self, path: Path, lines: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[self.json_field]
            except json.JSONDecodeError as error:
                raise _damaged(path, number, f"is not valid JSON ({error.msg})") from error
            except (KeyError, TypeError) as error:
                raise _damaged(
                    path,
                    number,
                    f"has no field {self.json_field!r}; name the field with the text in "
                    "TextFiles.json_field",
                ) from error
            if not isinstance(text, str):
                raise _damaged(path, number, f"has a field {self.json_field!r} that is no string")
            yield text.strip()


def _select(documents: Iterable[str], split: Split, every: int) -> Iterator[str]:
    """Every `every`-th document for validation, the others for training."""
    wanted = split == "validation"
    return (d for i, d in enumerate(documents) if (i % every == every - 1) == wanted)


def _paragraphs(lines: Iterable[str], language: str) -> Iterator[str]:
    """The lines between blank lines, joined as the language joins sentences."""
    space, paragraph = "" if language in _NO_SPACES else " ", []
    for line in lines:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield space.join(paragraph)
            paragraph = []
    if paragraph:
        yield space.join(paragraph)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, decompressed and decoded."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, number, "is not valid UTF-8; convert the file to UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(
            path, number + 1, f"cannot be decompressed ({error}); fetch the file again"
        ) from error
    except OSError as error:
        raise UserError("TextFiles.files", str(path), f"cannot be read: {error}") from error


def _damaged(path: Path, line: int, problem: str) -> UserError:
    return UserError("TextFiles.files", f"{path}:{line}", f"this line {problem}.")


def _expand(field: str, files: Mapping[str, str | Sequence[str]]) -> dict[str, list[Path]]:
    """language -> sorted files of all its folders and globs."""
    expanded = {}
    for language, patterns in files.items():
        patterns = [patterns] if isinstance(patterns, (str, Path)) else patterns
        found: set[Path] = set()
        for pattern in patterns:
            found.update(_match(f"{field}[{language!r}]", str(pattern)))
        expanded[language] = sorted(found)
        if not found:
            raise UserError(f"{field}[{language!r}]", patterns, "name a folder or a glob.")
    return expanded


def _match(field: str, pattern: str) -> list[Path]:
    folder = Path(pattern).expanduser()
    known = ", ".join(_SUFFIXES)
    if folder.is_dir():
        inside = [path for path in folder.rglob("*") if path.is_file()]
        found = [path for path in inside if path.name.endswith(_SUFFIXES)]
        if not found:
            names = ", ".join(sorted(path.name for path in inside)[:5]) or "nothing"
            raise UserError(field, pattern, f"no {known} file in this folder; it holds {names}.")
        return found
    found = [Path(p) for p in glob.glob(str(folder), recursive=True) if Path(p).is_file()]
    if not found:
        raise UserError(field, pattern, "no such file or folder; check the path or glob.")
    for path in found:
        if not path.name.endswith(_SUFFIXES):
            raise UserError(field, str(path), f"files must end in {known}.")
    return found


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
