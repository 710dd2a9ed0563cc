"""SentencePiece models in the layout of `seqrecipes.data.pieces`, and how they are trained.

Special pieces are control pieces: literal "<mask>" in a text is tokenised like any other
characters and never becomes the special id.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from seqrecipes.data import normalization as normalizing
from seqrecipes.data import pieces
from seqrecipes.data.corpora.corpus import Corpus, texts
from seqrecipes.data.objectives.base import Specials
from seqrecipes.data.order import language_shares
from seqrecipes.data.pieces import FIRST_PIECES, MODEL_NAME, last_pieces
from seqrecipes.errors import UserError
from seqrecipes.folders import UNFINISHED

_MAX_SENTENCE_BYTES = 4000
_NUM_THREADS = 2  # results depend on it, so it is not taken from the machine


class Vocabulary:
    """A SentencePiece model in the layout of `seqrecipes.data.pieces`.

    Args:
      path: the model file, or a function without arguments that returns its path. The file is
        read when first needed, so that a vocabulary may be named before it is configured.

    Raises:
      UserError: at first use, if the file is missing or not such a model.
    """

    def __init__(self, path: str | Callable[[], str]):
        self._path = path

    @property
    def path(self) -> str:
        """The path of the model file."""
        return self._path() if callable(self._path) else os.fspath(self._path)

    @property
    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """The SentencePiece processor."""
        return pieces.load(self.path).tokenizer

    @property
    def sp_model(self) -> bytes:
        """The serialised model."""
        return pieces.load(self.path).data

    def load_model(self) -> None:
        """Reads and checks the file now."""
        pieces.load(self.path)

    @property
    def pad_id(self) -> int:
        """Id of <pad>."""
        return self.tokenizer.pad_id()

    @property
    def mask_id(self) -> int:
        """Id of <mask>."""
        return self.size - self.sentinels - 2

    @property
    def doc_id(self) -> int:
        """Id of [DOC]."""
        return self.size - self.sentinels - 1

    @property
    def sentinels(self) -> int:
        """Number of sentinels; their ids are the last ones."""
        return pieces.load(self.path).sentinels

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return self.tokenizer.GetPieceSize()

    @property
    def checksum(self) -> str:
        """sha256 of the model file, in hexadecimal."""
        return pieces.checksum(self.sp_model)

    @property
    def specials(self) -> Specials:
        """The special ids."""
        return pieces.specials(pieces.load(self.path))


def train_vocabulary(
    training_texts: Iterator[str],
    size: int,
    output_dir: str | os.PathLike[str],
    *,
    sentinels: int = 0,
    normalization: str = normalizing.DEFAULT,
    character_coverage: float = 0.9995,
    byte_fallback: bool = False,
) -> Path:
    """Trains a unigram SentencePiece model of `size` ids; equal texts give an equal file.

    Args:
      training_texts: long documents are cut into pieces.
      size: number of ids, the six special ones and the sentinels included.
      output_dir: gets `spm.model`, complete or not at all.
      sentinels: for span corruption; its objectives say how many they need.
      normalization: one of `seqrecipes.data.normalization.NORMALIZATIONS`. ZWNJ and ZWJ have
        pieces wherever it keeps them.
      character_coverage: share of characters that get a piece of their own, 0.98 to 1.
      byte_fallback: spell what has no piece as UTF-8 bytes (256 more pieces) instead of <unk>.

    Returns:
      The path of the model.

    Raises:
      UserError: a vocabulary exists already, the size does not suit the text or the sentinels, or
        there is no text; or a setting has a value that it does not take.
    """
    if not 0.98 <= character_coverage <= 1:
        raise UserError("character coverage", character_coverage, "must lie in [0.98, 1]")
    normalizer = normalizing.normalizer(normalization)
    if sentinels < 0:
        raise UserError("--sentinels", sentinels, "choose 0 or more.")
    added = len(last_pieces(sentinels))
    taken = len(FIRST_PIECES) + added
    if size <= taken:
        raise UserError(
            "vocabulary size", size, f"too small: special ids and sentinels alone take {taken}."
        )
    target = Path(output_dir) / MODEL_NAME
    if target.exists():
        raise UserError("--output", str(output_dir), f"has a {MODEL_NAME}; choose another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=UNFINISHED) as folder:
        prefix = Path(folder) / "model"
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(part for text in training_texts for part in split_text(text)),
                model_prefix=str(prefix),
                model_type="unigram",
                vocab_size=size - added,
                normalizer=normalizer,
                required_chars=normalizing.kept_joiners(normalization),
                character_coverage=character_coverage,
                byte_fallback=byte_fallback,
                bos_id=0,
                pad_id=1,
                eos_id=2,
                unk_id=3,
                input_sentence_size=0,
                max_sentence_length=2 * _MAX_SENTENCE_BYTES,
                num_threads=_NUM_THREADS,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            raise _training_error(error, size, added) from error
        model = sentencepiece_model_pb2.ModelProto.FromString(
            prefix.with_suffix(".model").read_bytes()
        )
        model.trainer_spec.model_prefix = ""  # a random temporary name
        model.normalizer_spec.name = normalization
        for piece in model.pieces:
            # SentencePiece adds scores up in float32, Hugging Face's tokenizers in float64. On a
            # coarse grid both are exact, for up to some thousand tokens, and so are ties.
            piece.score = round(piece.score * 256) / 256
        prefix.write_bytes(pieces.complete(model, sentinels))
        os.replace(prefix, target)
    return target


def sample_texts(
    corpus: Corpus, alpha: float = 0.3, max_sentences: int = 2_000_000
) -> Iterator[str]:
    """Training text for a vocabulary: languages in shares q_l of characters, smoothed by alpha.

    Reads the corpus twice: first to count, then to pick. Documents of a language are dropped or
    repeated at regular intervals, so the choice is the same every time.

    Args:
      corpus: only its training split is read.
      alpha: see `seqrecipes.data.order.language_shares`.
      max_sentences: about so many pieces of text at most.

    Raises:
      UserError: there is no text.
    """
    counts, parts = [], []
    for language in corpus.languages:
        documents = [0, 0]
        for text in texts(corpus, language, "train"):
            documents[0] += len(text)
            documents[1] += len(text.encode()) // _MAX_SENTENCE_BYTES + bool(text)
        counts.append(documents[0])
        parts.append(documents[1])
    if not sum(counts):
        raise UserError("corpus", list(corpus.languages), "has no text in any language")
    shares = language_shares(counts, alpha)
    rates = [q * sum(counts) / max(n, 1) for q, n in zip(shares, counts, strict=True)]
    expected = sum(rate * n for rate, n in zip(rates, parts, strict=True))
    scale = min(1.0, max_sentences / max(expected, 1))
    for language, rate in zip(corpus.languages, rates, strict=True):
        due = 0.0
        for text in texts(corpus, language, "train"):
            due += rate * scale
            for _ in range(int(due)):
                yield text
            due -= int(due)


def split_text(text: str, limit: int = _MAX_SENTENCE_BYTES) -> Iterator[str]:
    """Cuts text into non-empty pieces of at most `limit` UTF-8 bytes, at spaces where it can."""
    text = " ".join(text.split())
    data = text.encode()
    while len(data) > limit:
        end = data.rfind(b" ", 1, limit + 1)
        if end < 0:
            end = limit
            while data[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        yield data[:end].decode()
        data = data[end:].lstrip(b" ")
    if data:
        yield data.decode()


def _training_error(error: Exception, size: int, added: int) -> Exception:
    """SentencePiece's message, turned into what to change; other errors as they are."""
    message = str(error)
    if match := re.search(r"value <= (\d+)", message):
        largest = int(match.group(1)) + added
        return UserError(
            "vocabulary size", size, f"too large for this text; the most is {largest}."
        )
    if match := re.search(r"required_chars\. (\d+) vs (\d+)", message):
        smallest = int(match.group(2)) + added + 1
        return UserError(
            "vocabulary size",
            size,
            f"too small for the characters of this text; choose {smallest} or more, or a lower "
            "character coverage.",
        )
    if "sentences_.empty()" in message or "Input corpus is empty" in message:
        return UserError("--corpus", "", "there is no text to train on.")
    return error
