"""Records -> the features that models read, of static lengths.

Every kind has `encoder_input_tokens`: <s> text </s>, or <s> one </s> </s> other </s>. To that come

- `label` [1] (classification, joint): its index among the labels, -1 for none of them;
- `word_positions` and `word_labels` [W] (tagging, joint): of word j, the index of its first piece
  in the input and of its tag among the labels; 0 and -1 where there is no such word or no such
  piece (see `alignment`);
- `decoder_input_tokens` and `decoder_target_tokens` [T] (generation), see
  `objectives.base.decoder_features`: the decoder reads </s> <s> text and writes <s> text </s>.

Tokens are padded with the id of <pad>. What is too long is cut, and </s> comes after it all the
same; no example is left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from seqrecipes.data.labelled.alignment import (
    NO_LABEL,
    NO_POSITION,
    align,
    encode_all,
    pair,
    word_pieces,
)
from seqrecipes.data.labelled.forms import Form
from seqrecipes.data.labelled.records import HEADS, Kind, Record
from seqrecipes.data.objectives.base import Specials, decoder_features
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError

Labels = Mapping[str, tuple[str, ...]]  # head -> labels
_CHUNK = 256
_SHORTEST = 8


class Encoded(NamedTuple):
    """One example.

    Attributes:
      features: int32 vectors.
      input: what a person reads: a text, a list of words, or a list of the two texts of a pair.
      reference: what a prediction is compared with: a label; the tags of ALL words; both, as
        {'intent', 'tags'}; a text or a list of texts.
      input_cut: whether the input was too long.
      target_cut: whether the text to generate was too long.
      unspellable: whether that text has characters that the vocabulary lacks.
    """

    features: dict[str, np.ndarray]
    input: Any
    reference: Any
    input_cut: bool
    target_cut: bool
    unspellable: bool


def feature_names(kind: Kind) -> tuple[str, ...]:
    """The features of a kind."""
    heads = HEADS[kind]
    return (
        "encoder_input_tokens",
        *(("label",) if "label" in heads else ()),
        *(("word_positions", "word_labels") if "words" in heads else ()),
        *(() if heads else ("decoder_input_tokens", "decoder_target_tokens")),
    )


def feature_lengths(kind: Kind, lengths: Mapping[str, int]) -> dict[str, int]:
    """The static length of every feature.

    Args:
      kind: of the set.
      lengths: of `encoder_input_tokens`; for generation, of `decoder_target_tokens` too. The most
        words may be given as `word_labels`, otherwise there may be as many as input tokens.

    Raises:
      UserError: one is missing or too short, or is of no feature of this kind.
    """
    names = feature_names(kind)
    if strangers := set(lengths) - set(names):
        raise UserError("lengths", sorted(strangers), f"{kind} has {', '.join(names)}.")
    given = dict(lengths)
    if "word_labels" in names:
        words = lengths.get("word_labels", lengths.get("encoder_input_tokens", 0))
        given["word_labels"] = words
        given.setdefault("word_positions", words)
        if given["word_positions"] != words:
            raise UserError("lengths", dict(lengths), "words have as many positions as labels.")
    if "decoder_target_tokens" in names:
        given["decoder_input_tokens"] = lengths.get("decoder_target_tokens", 0)
    if "label" in names:
        given["label"] = 1
    for name in names:
        shortest = _SHORTEST if name.endswith("_tokens") else 1
        if given.get(name, 0) < shortest:
            raise UserError("lengths", dict(lengths), f"{name} needs {shortest} or more.")
    return {name: given[name] for name in names}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Makes examples of records.

    Attributes:
      kind: of the set.
      vocabulary: tokenizes.
      labels: head -> labels.
      form: of a set of texts to generate.
      lengths: of every feature, see `feature_lengths`; None leaves them as long as they are.
    """

    kind: Kind
    vocabulary: Vocabulary
    labels: Labels
    form: Form
    lengths: Mapping[str, int] | None

    def __call__(self, records: Iterable[Record]) -> Iterator[Encoded]:
        """The examples in the order of the records."""
        specials = self.vocabulary.specials
        indices = {
            head: {label: index for index, label in enumerate(labels)}
            for head, labels in self.labels.items()
        }
        encode = self._generation if self.kind == "generation" else self._labelling
        records = iter(records)
        while chunk := list(itertools.islice(records, _CHUNK)):
            yield from encode(chunk, specials, indices)

    def _labelling(
        self, records: list[Record], specials: Specials, indices: Mapping[str, Mapping[str, int]]
    ) -> Iterator[Encoded]:
        # A text that is not split into words is tokenised as if it was one.
        sentences = [record.words or record.texts for record in records]
        pieces = word_pieces(self.vocabulary.tokenizer, sentences)
        for record, words in zip(records, pieces, strict=True):
            features: dict[str, list[int]] = {}
            length = self._length("encoder_input_tokens")
            if len(record.texts) == 2:
                tokens, cut = pair(words[0], words[1], length, specials)
            else:
                tokens, positions, cut = align(words, length, specials)
            features["encoder_input_tokens"] = tokens
            if "label" in indices:
                features["label"] = [indices["label"].get(record.label, NO_LABEL)]
            if "words" in indices:
                features["word_positions"] = positions
                features["word_labels"] = [
                    indices["words"].get(tag, NO_LABEL) if position != NO_POSITION else NO_LABEL
                    for tag, position in zip(record.tags, positions, strict=True)
                ]
            yield Encoded(
                self._fit(features, specials),
                _readable(record),
                _reference(self.kind, record),
                input_cut=cut,
                target_cut=False,
                unspellable=False,
            )

    def _generation(
        self, records: list[Record], specials: Specials, indices: Mapping[str, Mapping[str, int]]
    ) -> Iterator[Encoded]:
        tokenizer = self.vocabulary.tokenizer
        sources = encode_all(tokenizer, (self.form.source(record) for record in records))
        targets = encode_all(tokenizer, (self.form.target(record) for record in records))
        for record, source, target in zip(records, sources, targets, strict=True):
            tokens, _, cut = align([source], self._length("encoder_input_tokens"), specials)
            length = self._length("decoder_target_tokens")
            answer, _, target_cut = align([target], length, specials)
            decoder = decoder_features(np.array([specials.eos, *answer], np.int32))
            yield Encoded(
                self._fit({"encoder_input_tokens": tokens} | decoder, specials),
                _readable(record),
                _reference(self.kind, record),
                input_cut=cut,
                target_cut=target_cut,
                unspellable=specials.unk in target,
            )

    def _length(self, feature: str) -> int | None:
        return None if self.lengths is None else self.lengths[feature]

    def _fit(self, features: Mapping[str, Any], specials: Specials) -> dict[str, np.ndarray]:
        fillers = {"word_positions": NO_POSITION, "word_labels": NO_LABEL}
        fitted = {}
        for name, values in features.items():
            length = self._length(name)
            row = np.full(
                len(values) if length is None else length, fillers.get(name, specials.pad), np.int32
            )
            row[: len(values)] = values[: row.size]
            fitted[name] = row
        return fitted


def _readable(record: Record) -> Any:
    if record.words or len(record.texts) == 2:
        return list(record.words or record.texts)
    return record.texts[0]


def _reference(kind: Kind, record: Record) -> Any:
    match kind:
        case "classification":
            return record.label
        case "tagging":
            return list(record.tags)
        case "joint":
            return {"intent": record.label, "tags": list(record.tags)}
        case "generation":
            return list(record.targets) if record.several else record.targets[0]
