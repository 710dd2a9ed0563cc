"""The user's own text files, one language each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import gin

from seqrecipes.data.corpora.corpus import LANGUAGE, BadRecord
from seqrecipes.data.corpora.file_corpus import FileCorpus, Sources
from seqrecipes.data.corpora.file_sets import Unit, find_files
from seqrecipes.data.corpora.lines import NUL, File, join_sentences, paragraphs, read_lines
from seqrecipes.errors import UserError

DocumentUnit = Literal["line", "blank_line"]
_JSON = (".jsonl", ".jsonl.gz", ".json.gz")  # the last is how AllenAI names its mC4
_SUFFIXES = (".txt", ".txt.gz", *_JSON)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles(FileCorpus):
    """The user's own text: .txt, .txt.gz, .jsonl, .jsonl.gz and .json.gz files.

    Attributes:
      files: language -> a folder (read with its subfolders), a glob, or a list of these. Or one
        folder that has a folder, or a file such as en.txt.gz, named after each language.
      document: what a document is in .txt files: a 'line', or the lines up to a 'blank_line'. In
        JSON files it is always a line.
      json_field: the field of a JSON line that holds the text.

    The other settings are those of `FileCorpus`.
    """

    parallel: ClassVar[bool] = False

    document: DocumentUnit = "line"
    json_field: str = "text"

    def _example(self) -> str:
        return (
            "a folder or glob per language, such as {'en': 'texts/en/*.txt.gz'}, or to a folder "
            "with a folder per language"
        )

    def _check_language(self, language: str) -> None:
        if not LANGUAGE.fullmatch(language):
            raise UserError(
                self._field("files"),
                language,
                "unknown language: its name may have letters, digits and _ (such as pt_BR); rename "
                f"it, or name the languages to read in {self._field('languages')}.",
            )

    def _by_language(self, name: str, files: str | Sources) -> Sources:
        if not isinstance(files, (str, Path)):
            return super()._by_language(name, files)
        folder = Path(files).expanduser()
        if not folder.is_dir():
            raise self._error(name, f"no such folder; set it to {self._example()}.")
        found: dict[str, list[str]] = {}
        for path in sorted(folder.iterdir()):
            suffix = max((s for s in _SUFFIXES if path.name.endswith(s)), key=len, default="")
            if not path.name.startswith(".") and (suffix or path.is_dir()):
                found.setdefault(path.name.removesuffix(suffix), []).append(str(path))
        if not found:
            raise self._error(name, "this folder has no folder or text file named by a language.")
        return found

    def _units(self, field: str, language: str, patterns: str | Sequence[str]) -> list[Unit]:
        try:
            return [(file,) for file in find_files(field, patterns, _SUFFIXES)]
        except UserError as error:
            if isinstance(self.files, Mapping):
                raise
            choice = f"Name the languages to read in {self._field('languages')}, or remove it."
            remedy = f"unknown language folder: {error.remedy} {choice}"
            raise UserError(error.field, error.value, remedy) from error

    def _read(self, language: str, unit: Unit) -> Iterator[str | BadRecord]:
        (file,) = unit
        lines = read_lines(file, self.max_document_bytes)
        if file.path.name.endswith(_JSON):
            yield from self._json_documents(file, lines)
        elif self.document == "line":
            yield from (x if isinstance(x, BadRecord) else x.strip() for x in lines)
        else:
            for paragraph in paragraphs(lines, file, self.max_document_bytes):
                if isinstance(paragraph, BadRecord):
                    yield paragraph
                else:
                    yield join_sentences(paragraph, language)

    def _json_documents(
        self, file: File, lines: Iterable[str | BadRecord]
    ) -> Iterator[str | BadRecord]:
        for number, line in enumerate(lines, start=1):
            if isinstance(line, BadRecord):
                yield line
            elif line.strip():
                text, problem = self._json_text(line)
                yield file.bad_line(number, problem) if problem else text.strip()

    def _json_text(self, line: str) -> tuple[str, str]:
        """The text of a line, or what is wrong with it."""
        name = f"field {self.json_field!r}"
        try:
            text = json.loads(line)[self.json_field]
            text.encode()
        except json.JSONDecodeError as error:
            return "", f"is not valid JSON ({error.msg})"
        except (KeyError, TypeError):
            there = f"name the field with the text in {self._field('json_field')}"
            return "", f"has no {name}; {there}"
        except AttributeError:
            return "", f"has a {name} that is no string"
        except UnicodeEncodeError:
            return "", f"has a {name} with half a character (a lone surrogate)"
        except (ValueError, RecursionError) as error:
            return "", f"is not usable JSON ({error})"
        return ("", NUL) if "\0" in text else (text, "")
