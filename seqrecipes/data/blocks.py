"""Packed blocks on disk, read at random.

Text is tokenized and packed once, through the seqio task, into one flat file of token ids per
split and language. The folder is named after everything that decides its content, so a change of
text, vocabulary or length makes a new one and an old one is never read by mistake.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from seqrecipes.data.objectives import Specials
from seqrecipes.errors import UserError

if TYPE_CHECKING:
    from seqrecipes.data.tasks import PretrainingTask

_SPLITS = ("train", "validation")
_FORMAT = 1
_COUNT_CHUNK = 1 << 22


class Blocks:
    """The blocks of a prepared folder.

    Attributes:
      folder: where they are.
      manifest: what the folder says of itself; `manifest['splits'][split][language]` has
        documents, empty_documents, characters, tokens, unknown_tokens, blocks and last_block (the
        length of the last one).
      languages: their names, in the order of language indices.
      payload: tokens of a full block.
      specials: the special ids of the vocabulary.
      max_specials: the most special tokens in any block.
      vocabulary_checksum: of the vocabulary that made the ids.
      unigram: int64[vocab_size], how often each id occurs in the training split.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        self.languages: tuple[str, ...] = tuple(self.manifest["languages"])
        self.payload: int = self.manifest["payload"]
        self.specials = Specials(**self.manifest["specials"])
        self.max_specials: int = self.manifest["max_specials"]
        self.vocabulary_checksum: str = self.manifest["vocabulary_checksum"]
        self.unigram: np.ndarray = np.load(self.folder / "unigram.npy")

    def counts(self, split: str) -> np.ndarray:
        """int64[languages]: number of blocks."""
        return np.array([self._statistics(split, name)["blocks"] for name in self.languages])

    def tokens(self, split: str) -> int:
        """Number of tokens of a split."""
        return sum(self._statistics(split, name)["tokens"] for name in self.languages)

    def block(self, split: str, language: int, block: int) -> np.ndarray:
        """int32[n]: the tokens of a block; n is `payload` but for the last of a language."""
        start = block * self.payload
        return self._flat(split, language)[start : start + self.payload].astype(np.int32)

    def unigram_entropy(self) -> float:
        """Nats per token of the validation text for a model that knows token frequencies only.

        Cross-entropy of the validation tokens ([DOC] included, languages in their natural
        proportions) under the training frequencies with one added to every count. A model that
        has learnt anything about context has a lower loss.
        """
        log_probability = np.log((self.unigram + 1) / (self.unigram.sum() + self.unigram.size))
        counts = np.zeros_like(self.unigram)
        for i in range(len(self.languages)):
            counts += _count(self._flat("validation", i), self.unigram.size)
        if not counts.sum():
            raise UserError("corpus", str(self.folder), "it has no validation text.")
        return float(-(counts @ log_probability) / counts.sum())

    def _statistics(self, split: str, language: str) -> dict[str, int]:
        return self.manifest["splits"][split][language]

    @functools.cache  # noqa: B019 -- as many as there are files
    def _flat(self, split: str, language: int) -> np.ndarray:
        path = _token_file(self.folder, split, self.languages[language])
        return _open(path, self.specials.vocab_size)


def prepare_blocks(
    task: PretrainingTask, payload: int, cache_dir: str | os.PathLike[str]
) -> Blocks:
    """Tokenizes and packs the corpus of a task, or finds that this was done before.

    The blocks depend on corpus, vocabulary and payload alone, so tasks that differ in their
    objective share them. Processes that ask for the same blocks at once wait for one of them.

    Args:
      task: gives the source and everything before its cache.
      payload: tokens of a block: the sequence length less 2.
      cache_dir: gets a folder of its own for these blocks.

    Raises:
      UserError: the corpus or the vocabulary cannot be used, or there is no training text.
    """
    identity = {
        "format": _FORMAT,
        "corpus_fingerprint": task.source.corpus.fingerprint(),
        "vocabulary_checksum": task.vocabulary.checksum,
        "payload": payload,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    target = Path(cache_dir) / f"blocks-{digest}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if not target.exists():
                temporary = target.with_suffix(".partial")
                # Whoever left it is gone: a living process would hold the lock.
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                _write(task, payload, identity, temporary, target)
                os.replace(temporary, target)
    return Blocks(target)


def _write(
    task: PretrainingTask, payload: int, identity: dict[str, Any], folder: Path, target: Path
) -> None:
    began = time.monotonic()
    vocabulary, languages = task.vocabulary, task.source.corpus.languages
    specials = vocabulary.specials
    splits, max_specials = {}, 0
    with tqdm(
        desc="packing text", unit=" tokens", unit_scale=True, disable=not sys.stderr.isatty()
    ) as progress:
        for split in _SPLITS:
            names = ("documents", "empty_documents", "characters", "tokens", "blocks", "last_block")
            splits[split] = {language: dict.fromkeys(names, 0) for language in languages}
            with contextlib.ExitStack() as stack:
                files = {
                    name: stack.enter_context(_token_file(folder, split, name).open("wb"))
                    for name in languages
                }
                for block in task.packed_blocks(split, payload):
                    language, tokens = block["language"].decode(), block["tokens"]
                    tokens.astype(_dtype(specials.vocab_size)).tofile(files[language])
                    statistics = splits[split][language]
                    for name in names[:3]:
                        statistics[name] += int(block[name])
                    statistics["tokens"] += tokens.size
                    statistics["blocks"] += 1
                    statistics["last_block"] = tokens.size
                    ordinary = int(np.count_nonzero(specials.is_ordinary(tokens)))
                    max_specials = max(max_specials, tokens.size - ordinary)
                    progress.update(tokens.size)
    if not any(s["tokens"] for s in splits["train"].values()):
        raise UserError("corpus", task.name, "it has no training text.")

    unigram = np.zeros(specials.vocab_size, np.int64)
    for split in _SPLITS:
        for language, statistics in splits[split].items():
            path = _token_file(folder, split, language)
            counts = _count(_open(path, unigram.size), unigram.size)
            statistics["unknown_tokens"] = int(counts[specials.unk])
            if split == "train":
                unigram += counts
    np.save(folder / "unigram.npy", unigram)
    manifest = {
        **identity,
        "languages": languages,
        "specials": dataclasses.asdict(specials),
        "max_specials": max_specials,
        "splits": splits,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    if not sys.stderr.isatty():
        blocks = sum(s["blocks"] for split in splits.values() for s in split.values())
        print(
            f"packed {blocks:,} blocks of {payload} tokens into {target} "
            f"in {time.monotonic() - began:.1f} s",
            file=sys.stderr,
        )


def _token_file(folder: Path, split: str, language: str) -> Path:
    return folder / f"{split}-{language}.tokens"


def _open(path: Path, vocab_size: int) -> np.ndarray:
    dtype = _dtype(vocab_size)
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def _count(tokens: np.ndarray, size: int) -> np.ndarray:
    """int64[size]: how often each id occurs; in chunks, because bincount widens its input."""
    counts = np.zeros(size, np.int64)
    for start in range(0, tokens.size, _COUNT_CHUNK):
        counts += np.bincount(tokens[start : start + _COUNT_CHUNK], minlength=size)
    return counts


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # freed by the system when its holder dies
        yield
