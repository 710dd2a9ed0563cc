"""What is measured on: text, a vocabulary, and prepared records, all made in a temporary folder.

Without a text of the user's the bundled sample is repeated until it is long enough. Noise, packing
and tokenization do not remember what they saw, so repetition does not make them faster; but its
documents are short and its vocabulary is small.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.corpora.corpus import Corpus, Split, texts
from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel
from seqrecipes.data.corpora.text_files import TextFiles
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.objectives.denoising import SpanDenoise
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.stream import training_stream
from seqrecipes.data.tasks import PretrainingTask
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary

SEQUENCE_LENGTH = 512
_VOCABULARY_SENTENCES = 20_000


class RepeatedPairs(SampleParallel):
    """The bundled translations, `times` times over."""

    def __init__(self, times: int):
        self._times = times

    def documents(self, language: str, split: Split, shard: int) -> Iterator[tuple[str, str]]:
        """See `Corpus.documents`."""
        for _ in range(self._times):
            yield from super().documents(language, split, shard)

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return f"{super().fingerprint()}-{self._times}"


@dataclasses.dataclass(frozen=True)
class Material:
    """Text and vocabulary in a folder.

    Attributes:
      folder: gets the prepared records too.
      corpus: the text in one file a language.
      pairs: translations.
      vocabulary: tokenizes both.
      documents: what stands in `raw_corpus`.
      raw_corpus: a part of the text as one shard.
    """

    folder: Path
    corpus: Corpus
    pairs: Corpus
    vocabulary: Vocabulary
    documents: list[str]
    raw_corpus: Corpus

    def blocks(self, objective: Objective) -> Blocks:
        """Records that fill sequences of 512 under an objective."""
        corpus = self.pairs if objective.reads == "translations" else self.corpus
        payload = objective.payload(SEQUENCE_LENGTH)
        return self._prepare(corpus, objective, payload, self.folder / "prepared")

    def prepare_raw(self, number: int) -> int:
        """Prepares `raw_corpus` anew, from text to blocks on disk; returns its tokens."""
        objective = SpanDenoise()
        payload = objective.payload(SEQUENCE_LENGTH)
        folder = self.folder / f"raw-{number}"
        return self._prepare(self.raw_corpus, objective, payload, folder).tokens("train")

    def _prepare(self, corpus: Corpus, objective: Objective, payload: int, folder: Path) -> Blocks:
        kind = type(corpus).__name__
        task = PretrainingTask(
            f"{kind}.{objective.reads}",
            lambda: corpus,
            objective,
            self.vocabulary,
            payload,
            join_pairs=True,
        )
        with contextlib.redirect_stderr(io.StringIO()):
            return prepare_blocks(task, payload, folder)


def make_material(
    folder: Path,
    *,
    text: Path | None,
    vocabulary: Path | None,
    vocabulary_size: int | None,
    characters: int,
    raw_characters: int,
) -> Material:
    """Writes text into a folder and trains a vocabulary on it.

    Args:
      folder: an empty one.
      text: a folder with one folder of text files a language; None for the bundled sample.
      vocabulary: a spm.model; None to train one.
      vocabulary_size: of the one to be trained; None for one that suits the text.
      characters: of text in all, languages in equal parts as far as they go.
      raw_characters: of these, so many go into `raw_corpus`.
    """
    source: Corpus = SampleCorpus()
    if text is not None:
        languages = sorted(entry.name for entry in text.iterdir() if entry.is_dir())
        source = TextFiles(files={name: str(text / name) for name in languages})
    everything: list[list[str]] = []
    for language in source.languages:
        documents = [" ".join(d.split()) for d in texts(source, language, "train")]
        documents = [document for document in documents if document]
        endless = itertools.cycle(documents) if text is None else iter(documents)
        everything.append(_take(endless, characters // len(source.languages)))
        _write(folder / f"{language}.txt", everything[-1])
    # In turns, so that a part of it has all languages.
    turns = itertools.chain.from_iterable(itertools.zip_longest(*everything))
    raw = _take((document for document in turns if document), raw_characters)
    _write(folder / "raw.txt", raw)

    if vocabulary is None:
        size = vocabulary_size or (2000 if text is None else 16000)
        training_texts = sample_texts(source, max_sentences=_VOCABULARY_SENTENCES)
        sentinels = max(o.sentinels(o.payload(SEQUENCE_LENGTH)) for o in OBJECTIVES.values())
        vocabulary = train_vocabulary(
            training_texts, size, folder / "vocabulary", sentinels=sentinels
        )
    return Material(
        folder,
        TextFiles(files={name: str(folder / f"{name}.txt") for name in source.languages}),
        RepeatedPairs(max(1, characters // 200_000)),
        Vocabulary(str(vocabulary)),
        raw,
        TextFiles(files={"all": str(folder / "raw.txt")}, validation_every=max(2, len(raw))),
    )


def payloads(blocks: Blocks, most: int) -> np.ndarray:
    """int32[k, payload]: full blocks of the training split in random order, k <= `most`.

    They are taken from the stream of an objective whose target is the whole original.
    """
    stream = training_stream(blocks, SpanDenoise(), alpha=1.0, seed=1)
    rows = stream.examples(np.arange(min(most, stream.size)))["decoder_target_tokens"]
    return rows[(rows != stream.pad_id).all(axis=1), 1:-1]


def _take(documents: Iterator[str], characters: int) -> list[str]:
    taken = []
    for document in documents:
        taken.append(document)
        characters -= len(document)
        if characters <= 0:
            break
    return taken


def _write(path: Path, documents: list[str]) -> None:
    path.write_text("".join(f"{document}\n" for document in documents), "utf-8")
