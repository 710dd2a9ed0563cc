"""Packed records on disk, read at random.

Text is tokenized and packed once, through the seqio task, into one file of token ids per shard. The
folder is named after everything that decides its content, so a change of text, vocabulary or
length makes a new one and an old one is never read by mistake. What was done once is not done
again: a shard with its statistics beside it is finished, a folder with a manifest is complete.
Every record is compared with its checksum when it is read, which costs a few microseconds, so that
no bit that flipped on a disk is trained on.

    blocks-<digest>/<split>/<shard>.tokens  ids, uint16 or uint32
                    <split>/<shard>.ends    of pairs: where each segment ends in it, int64
                    <split>/<shard>.crc32   a checksum of every record, uint32
                    <split>/<shard>.json    counts, checksum, skipped records; written last
                    manifest.json           all of these and what decides the content
                    unigram.npy             how often each id occurs in the training split
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import hashlib
import json
import os
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from etils import epath

from seqrecipes.data.objectives.base import Specials, example_index
from seqrecipes.errors import UserError

if TYPE_CHECKING:
    from seqrecipes.data.tasks import PretrainingTask

SPLITS = ("train", "validation")
MANIFEST = "manifest.json"
PREPARE = "python -m seqrecipes.prepare"
_OPEN_FILES = 256
_CHUNK = 1 << 22
CRC = np.dtype("<u4")

AnyPath = TypeVar("AnyPath", Path, epath.Path)


class Blocks:
    """The records of a complete folder.

    Attributes:
      folder: where they are.
      manifest: what the folder says of itself; `manifest['splits'][split][language]` has the counts
        of `preprocessors.Summary` and tokens, unknown_tokens and blocks.
      languages: their names, in the order of language indices.
      payload: the most tokens of a segment.
      pairs: whether a record has two segments.
      specials: the special ids of the vocabulary.
      max_specials: the most special tokens in any record.
      vocabulary_checksum: of the vocabulary that made the ids.
      unigram: int64[vocab_size], how often each id occurs in the training split.

    Raises:
      UserError: the folder is incomplete, or a file is missing or has another size than it had.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text("utf-8"))
            self.unigram: np.ndarray = np.load(self.folder / "unigram.npy")
        except OSError as error:
            raise UserError(
                "prepared text", str(folder), f"is not complete ({error}); run `{PREPARE}`."
            ) from error
        except ValueError as error:
            raise _changed(
                self.folder, f"its manifest or unigram.npy is damaged ({error})"
            ) from error
        self.languages: tuple[str, ...] = tuple(self.manifest["languages"])
        self.payload: int = self.manifest["payload"]
        self.pairs: bool = self.manifest["reads"] != "blocks"
        self.specials = Specials(**self.manifest["specials"])
        self.max_specials: int = self.manifest["max_specials"]
        self.vocabulary_checksum: str = self.manifest["vocabulary_checksum"]
        self._dtype = id_dtype(self.specials.vocab_size)
        self._files = _Files()
        self._shards = {
            split: [self._find(split, language) for language in self.languages] for split in SPLITS
        }

    def counts(self, split: str) -> np.ndarray:
        """int64[languages]: number of records."""
        return np.array([shards.starts[-1] for shards in self._shards[split]], np.int64)

    def tokens(self, split: str) -> int:
        """Number of tokens of a split."""
        return sum(counts["tokens"] for counts in self.manifest["splits"][split].values())

    def record(self, split: str, language: int, block: int) -> tuple[int, tuple[np.ndarray, ...]]:
        """The index that fixes the noise of a record, and its segments.

        Args:
          split: 'train' or 'validation'.
          language: its index.
          block: number of the record in the language.

        Returns:
          `objectives.example_index` of it, and one or two int32[n] arrays. A block has `payload`
          tokens but for the last of a shard.

        Raises:
          UserError: its file is gone or cut off, or the record is not what was written.
        """
        shards = self._shards[split][language]
        shard = bisect.bisect_right(shards.starts, block) - 1
        number, path = block - shards.starts[shard], shards.paths[shard]
        index = shards.noise + (shard << 64) + number
        if not self.pairs:
            start = number * self.payload
            middle = end = min(start + self.payload, shards.tokens[shard])
        else:
            # The end of the record before it is where it starts.
            first = 2 * number - 1 if number else 0
            ends = self._files.read(
                _ends(path), np.dtype(np.int64), first, 2 * number + 2 - first
            ).tolist()
            start, middle, end = ends if number else (0, *ends)
            if not 0 <= start <= middle <= end <= shards.tokens[shard]:
                raise _changed(_ends(path), f"says nonsense of record {number}")
        stored = self._files.read(path, self._dtype, start, end - start)
        (written,) = self._files.read(crcs(path), CRC, number, 1)
        if record_crc(stored, middle - start) != written:
            raise _changed(path, f"record {number} is not what was written")
        tokens = stored.astype(np.int32)
        if not self.pairs:
            return index, (tokens,)
        return index, (tokens[: middle - start], tokens[middle - start :])

    def unigram_entropy(self) -> float:
        """Nats per token of the validation text for a model that knows token frequencies only.

        Cross-entropy of the validation tokens ([DOC] included, languages in their natural
        proportions) under the training frequencies with one added to every count. A model that
        has learnt anything about context has a lower loss.
        """
        log_probability = np.log((self.unigram + 1) / (self.unigram.sum() + self.unigram.size))
        counts = np.zeros_like(self.unigram)
        for shards in self._shards["validation"]:
            for path in shards.paths:
                counts += count_ids(path, counts.size)
        if not counts.sum():
            raise UserError("corpus", str(self.folder), "it has no validation text.")
        return float(-(counts @ log_probability) / counts.sum())

    def verify(self) -> Iterator[str]:
        """Reads everything; yields the name of each shard that is as it was written.

        Raises:
          UserError: names the first file that is not.
        """
        for split, languages in self._shards.items():
            for language, shards in zip(self.languages, languages, strict=True):
                written = self.manifest["shards"][split][language]
                for path, statistics in zip(shards.paths, written, strict=True):
                    if checksum(path, self.pairs) != statistics["sha256"]:
                        raise _changed(path, "its checksum is not what it was")
                    yield f"{split}/{path.stem}"

    def _find(self, split: str, language: str) -> _Shards:
        shards = _Shards(example_index(language, 0, 0), [], [], [0])
        for number, statistics in enumerate(self.manifest["shards"][split][language]):
            path = self.folder / split / f"{shard_name(language, number)}.tokens"
            for file, size in file_sizes(path, statistics, self._dtype, self.pairs).items():
                if not file.exists():
                    raise _changed(file, "is missing")
                if file.stat().st_size != size:
                    raise _changed(file, f"has {file.stat().st_size} bytes in place of {size}")
            shards.paths.append(path)
            shards.tokens.append(statistics["tokens"])
            shards.starts.append(shards.starts[-1] + statistics["blocks"])
        return shards


@dataclasses.dataclass
class _Shards:
    """The shards of a language.

    Attributes:
      noise: noise index of the first record of the first one.
      paths: of the files of tokens.
      tokens: number of tokens in each.
      starts: number of records before each, and their sum at the end.
    """

    noise: int
    paths: list[Path]
    tokens: list[int]
    starts: list[int]


class _Files:
    """Files kept open for reading, some at a time.

    They are read in place of being mapped into memory, so that a file that is cut off or gone is an
    error of this process instead of its end, and memory does not grow with what was read.
    """

    def __init__(self) -> None:
        self._open: collections.OrderedDict[Path, int] = collections.OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    def read(self, path: Path, dtype: np.dtype, start: int, count: int) -> np.ndarray:
        """`count` numbers from the `start`-th on."""
        size = count * dtype.itemsize
        with self._lock:
            try:
                descriptor = self._open.get(path)
                if descriptor is None:
                    descriptor = self._open[path] = os.open(path, os.O_RDONLY)
                    if len(self._open) > _OPEN_FILES:
                        os.close(self._open.popitem(last=False)[1])
                data = os.pread(descriptor, size, start * dtype.itemsize)
            except OSError as error:
                raise _changed(path, f"cannot be read ({error.strerror})") from error
        if len(data) != size:
            raise _changed(path, "is cut off")
        return np.frombuffer(data, dtype)


def _close_all(descriptors: Mapping[Path, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


def wanted_records(task: PretrainingTask, payload: int) -> dict[str, Any]:
    """What decides the records of a task, beside the text itself; all of it is in the manifest."""
    reads = task.objective.reads
    return {
        "corpus": task.name.partition(".")[0],
        "vocabulary_checksum": task.vocabulary.checksum,
        "reads": reads,
        "payload": payload,
        "join_pairs": task.join_pairs and reads != "blocks",
    }


def find_prepared(
    folder: str | os.PathLike[str], wanted: Mapping[str, Any], *, field: str = "Recipe.prepared"
) -> Blocks:
    """The records in a folder of prepared text that suit a task.

    Args:
      folder: was the `--output` of `python -m seqrecipes.prepare`.
      wanted: see `wanted_records`.
      field: the setting that names the folder, for errors.

    Raises:
      UserError: none suit, or several; says how those that are there differ.
    """
    suitable, others = [], []
    for manifest in sorted(Path(folder).glob(f"*/{MANIFEST}")):
        theirs = json.loads(manifest.read_text("utf-8"))
        wrong = [f"{name} {theirs[name]}" for name in wanted if theirs[name] != wanted[name]]
        if wrong:
            others.append(f"{manifest.parent.name} has {', '.join(wrong)}")
        else:
            suitable.append(manifest.parent)
    if len(suitable) == 1:
        return Blocks(suitable[0])
    asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
    if suitable:
        names = ", ".join(path.name for path in suitable)
        raise UserError(field, str(folder), f"{names} all have {asked}; keep one.")
    found = "; ".join(others) or "nothing complete is there"
    raise UserError(field, str(folder), f"no {asked} ({found}); run `{PREPARE}`.")


def shard_name(language: str, shard: int) -> str:
    """As in `CorpusSource.list_shards`."""
    return f"{language}-{shard:05d}"


def id_dtype(vocab_size: int) -> np.dtype:
    """uint16 if it holds every id, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def file_sizes(
    path: AnyPath, statistics: Mapping[str, Any], dtype: np.dtype, pairs: bool
) -> dict[AnyPath, int]:
    """The files of a shard and their bytes; `path` is that of its tokens."""
    sizes = {path: statistics["tokens"] * dtype.itemsize}
    sizes[crcs(path)] = statistics["blocks"] * CRC.itemsize
    if pairs:
        sizes[_ends(path)] = 2 * statistics["blocks"] * np.dtype(np.int64).itemsize
    return sizes


def count_ids(path: AnyPath, vocab_size: int) -> np.ndarray:
    """int64[vocab_size]: how often each id occurs in a file of tokens."""
    counts = np.zeros(vocab_size, np.int64)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            ids = np.frombuffer(data, id_dtype(vocab_size))
            counts += np.bincount(ids, minlength=vocab_size)
    return counts


def record_crc(stored: np.ndarray, first: int) -> int:
    """CRC-32 of a record's ids as they are stored, and of how many belong to its first segment."""
    return zlib.crc32(stored.tobytes(), first)


def crcs(path: AnyPath) -> AnyPath:
    """The file of the checksums of the records whose tokens are at `path`."""
    return path.with_suffix(".crc32")


def checksum(path: AnyPath, pairs: bool) -> str:
    """sha256, in hexadecimal, of a file of tokens, and of pairs also of where they end."""
    digest = hashlib.sha256()
    for file in (path, _ends(path)) if pairs else (path,):
        with file.open("rb") as stream:
            while data := stream.read(_CHUNK):
                digest.update(data)
    return digest.hexdigest()


def _ends(path: AnyPath) -> AnyPath:
    return path.with_suffix(".ends")


def _changed(path: Path, problem: str) -> UserError:
    return UserError("prepared text", str(path), f"{problem}; restore it, or run `{PREPARE}`.")
