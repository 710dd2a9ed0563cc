"""From a task to its packed records on disk, shard by shard.

Every shard is written on its own and has its statistics written last, so work that was cut off goes
on where it was, whoever does it: this process (`prepare_blocks`), or the workers of a Beam
pipeline (`seqrecipes.data.beam`).
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from seqrecipes.data.blocks import (
    CRC,
    MANIFEST,
    SPLITS,
    Blocks,
    count_ids,
    crcs,
    file_sizes,
    id_dtype,
    record_crc,
    shard_name,
    wanted_records,
)
from seqrecipes.data.corpora import contents
from seqrecipes.data.corpora.file_corpus import FileCorpus
from seqrecipes.data.records import COUNTS, Summary
from seqrecipes.data.tasks import PretrainingTask
from seqrecipes.errors import UserError

log = logging.getLogger(__name__)

_FORMAT = 3
_MAX_WARNINGS = 5

Shard = tuple[str, int]  # split, place in `PretrainingTask.shards`


def prepare_blocks(
    task: PretrainingTask, payload: int, cache_dir: str | os.PathLike[str]
) -> Blocks:
    """Tokenizes and packs the corpus of a task in this process, or what is left of it.

    The records depend on corpus, vocabulary, payload and on what the objective reads, so tasks
    that differ in their noise share them. Processes that ask for the same records at once
    wait for one of them.

    Args:
      task: gives the source and everything before its cache.
      payload: the most tokens of a segment, see `Objective.payload`.
      cache_dir: gets a folder of its own for these records.

    Raises:
      UserError: the corpus or the vocabulary cannot be used, or there is no training text.
    """
    preparation = Preparation.of(task, payload, cache_dir)
    complete(preparation)
    return Blocks(preparation.folder)


def complete(preparation: Preparation) -> None:
    """Writes in this process what is missing of a preparation; one process at a time does so.

    Raises:
      UserError: as `prepare_blocks`.
    """
    preparation.folder.mkdir(parents=True, exist_ok=True)
    remember_text(preparation.task, preparation.folder.parent)
    with _locked(preparation.folder.with_suffix(".lock")):
        missing = preparation.missing()
        if missing or not preparation.complete:
            _write_all(preparation, missing)


def remember_text(task: PretrainingTask, folder: epath.Path) -> None:
    """Keeps the checksums of the text in a folder, for the next process that asks for them."""
    corpus = task.corpus
    if isinstance(corpus, FileCorpus):
        contents.save(folder / contents.MEMORY_FILE, corpus.versions().values())


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The records of a task, done or to be done.

    Attributes:
      task: with the wanted payload, on the corpus as it was found.
      folder: where they are, or will be.
      identity: what decides them.
    """

    task: PretrainingTask
    folder: epath.Path
    identity: Mapping[str, Any]

    @classmethod
    def of(
        cls, task: PretrainingTask, payload: int, cache_dir: str | os.PathLike[str]
    ) -> Preparation:
        """Of a task with another payload than it has."""
        contents.load(epath.Path(cache_dir) / contents.MEMORY_FILE)
        task = task.sized(payload)
        identity = {
            "format": _FORMAT,
            "corpus_fingerprint": task.corpus.fingerprint(),
            **wanted_records(task, payload),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return cls(task, epath.Path(cache_dir) / f"blocks-{digest}", identity)

    @property
    def complete(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST).exists()

    @functools.cached_property
    def _places(self) -> dict[Shard, tuple[str, int]]:
        return {
            (split, place): shard
            for split in SPLITS
            for place, shard in enumerate(self.task.shards(split))
        }

    @functools.cached_property
    def shards(self) -> dict[Shard, epath.Path]:
        """All of them, with the file that their tokens go to."""
        return {
            (split, place): self.folder / split / f"{shard_name(*shard)}.tokens"
            for (split, place), shard in self._places.items()
        }

    def missing(self) -> list[Shard]:
        """Those that are not written, or of which a file is gone or has another size.

        Raises:
          UserError: the folder cannot be looked at.
        """
        try:
            return [shard for shard in self.shards if self._statistics(shard) is None]
        except Exception as error:
            # TensorFlow's own, where it is installed and reads the folder, such as gs://.
            if not (isinstance(error, OSError) or type(error).__module__.startswith("tensorflow")):
                raise
            problem = f"cannot be read: {' '.join(str(error).split())}"
            raise UserError("prepared text", str(self.folder), problem) from error

    def write(
        self, shard: Shard, progress: Callable[[int], object] = lambda tokens: None
    ) -> dict[str, Any]:
        """Reads and writes a shard, complete or not at all; returns its statistics.

        Args:
          shard: which.
          progress: is told of the tokens of every record.

        Raises:
          UserError: the text cannot be used.
        """
        path, specials = self.shards[shard], self.task.vocabulary.specials
        path.parent.mkdir(parents=True, exist_ok=True)
        dtype = id_dtype(specials.vocab_size)
        statistics: dict[str, Any] = dict.fromkeys(("blocks", "tokens", "max_specials"), 0)
        seen = Summary()
        ends, crc32 = array.array("q"), []
        sha256 = hashlib.sha256()  # as `blocks.checksum`
        with _replacing(path) as temporary, temporary.open("wb") as file:
            for tokens, first in self.task.records(shard[0], *self._places[shard], seen):
                stored = tokens.astype(dtype)
                file.write(stored.tobytes())
                sha256.update(stored.tobytes())
                crc32.append(record_crc(stored, first))
                start = statistics["tokens"]
                ends.extend((start + first, start + tokens.size))
                statistics["blocks"] += 1
                statistics["tokens"] += tokens.size
                special = tokens.size - int(np.count_nonzero(specials.is_ordinary(tokens)))
                statistics["max_specials"] = max(statistics["max_specials"], special)
                progress(tokens.size)
        statistics |= {name: getattr(seen, name) for name in COUNTS}
        statistics["problems"] = seen.problems
        if self._pairs:
            with _replacing(path.with_suffix(".ends")) as temporary:
                temporary.write_bytes(ends.tobytes())
            sha256.update(ends.tobytes())
        with _replacing(crcs(path)) as temporary:
            temporary.write_bytes(np.array(crc32, CRC).tobytes())
        unigram = count_ids(path, specials.vocab_size)
        with (
            _replacing(path.with_suffix(".unigram.npy")) as temporary,
            temporary.open("wb") as file,
        ):
            np.save(file, unigram)
        statistics["unknown_tokens"] = int(unigram[specials.unk])
        statistics["sha256"] = sha256.hexdigest()
        with _replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(statistics), "utf-8")
        return statistics

    def finish(self) -> None:
        """Sums the shards up; from here on the folder is complete.

        Raises:
          UserError: there is no training text.
        """
        specials, languages = self.task.vocabulary.specials, self.task.corpus.languages
        shards: dict[str, dict[str, list]] = {s: {name: [] for name in languages} for s in SPLITS}
        unigram = np.zeros(specials.vocab_size, np.int64)
        for (split, _), path in self.shards.items():
            statistics = json.loads(path.with_suffix(".json").read_text("utf-8"))
            shards[split][path.stem.rpartition("-")[0]].append(statistics)
            if split == "train":
                unigram += np.load(path.with_suffix(".unigram.npy"))
        summed = ("blocks", "tokens", "unknown_tokens", *COUNTS)
        splits = {
            split: {
                language: {name: sum(s[name] for s in each) for name in summed}
                for language, each in by_language.items()
            }
            for split, by_language in shards.items()
        }
        if not sum(counts["tokens"] for counts in splits["train"].values()):
            raise UserError("corpus", self.identity["corpus"], "it has no training text.")
        everything = [s for split in shards.values() for each in split.values() for s in each]
        with _replacing(self.folder / "unigram.npy") as temporary, temporary.open("wb") as file:
            np.save(file, unigram)
        manifest = {
            **self.identity,
            "contents": self.task.corpus.contents(),
            "languages": languages,
            "specials": dataclasses.asdict(specials),
            "max_specials": max(s["max_specials"] for s in everything),
            "splits": splits,
            "shards": shards,
        }
        with _replacing(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        for leftover in self.folder.glob("*/*.partial"):
            leftover.unlink()
        report_bad_records(everything)

    @property
    def _pairs(self) -> bool:
        return self.identity["reads"] != "blocks"

    def _statistics(self, shard: Shard) -> dict[str, Any] | None:
        path = self.shards[shard]
        with contextlib.suppress(OSError):
            statistics = json.loads(path.with_suffix(".json").read_text("utf-8"))
            dtype = id_dtype(self.task.vocabulary.size)
            sizes = file_sizes(path, statistics, dtype, self._pairs)
            if all(file.stat().length == size for file, size in sizes.items()):
                return statistics
        return None


def report_bad_records(shards: Iterable[Mapping[str, Any]]) -> None:
    """Warns of the records that were skipped, with the first few by name."""
    shards = list(shards)
    if count := sum(statistics["bad_records"] for statistics in shards):
        problems = [p for statistics in shards for p in statistics["problems"]]
        log.warning("skipped %s bad records, among them:", f"{count:,}")
        for problem in problems[:_MAX_WARNINGS]:
            log.warning("  %s", problem)


def _write_all(preparation: Preparation, missing: Sequence[Shard]) -> None:
    began, tokens = time.monotonic(), 0
    with tqdm(
        desc="packing text", unit=" tokens", unit_scale=True, disable=not sys.stderr.isatty()
    ) as progress:
        for shard in missing:
            tokens += preparation.write(shard, progress.update)["tokens"]
    preparation.finish()
    if not sys.stderr.isatty():
        print(
            f"packed {tokens:,} tokens into {preparation.folder} "
            f"in {time.monotonic() - began:.1f} s",
            file=sys.stderr,
        )


@contextlib.contextmanager
def _replacing(path: epath.Path) -> Iterator[epath.Path]:
    """A new path that takes the place of `path` once all has been written."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(path: epath.Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the system when its holder dies
        yield
