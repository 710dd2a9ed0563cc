"""What an objective did to a record: where each token of an example came from, and counts of it.

Noise depends on which tokens of a record are ordinary and never on which ordinary tokens they are.
So the objective is run a second time, with the same random numbers, on a record in which every
token is a label of its position: what comes out says where it came from. Nothing is guessed by
comparing texts, in which the same token stands many times.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from seqrecipes.data.objectives.base import Example, Objective, Specials, generator
from seqrecipes.data.objectives.corruption import SpanCorruption
from seqrecipes.data.objectives.denoising import SpanDenoise
from seqrecipes.data.spans import noise_counts, poisson_cdf
from seqrecipes.errors import UserError

ADDED = -1  # the origin of a token that the objective put in
MASKED, RANDOM, KEPT = range(3)  # fates of a token that is to be predicted

SOURCE, TARGET = "encoder_input_tokens", "decoder_target_tokens"
# Features with positions, and the one that they count in.
INPUT_OF = {
    "masked_positions": SOURCE,
    "first_masked_positions": "first_input_tokens",
    "second_masked_positions": "second_input_tokens",
}
# So many ordinary ids that a random one is hardly ever the label of a token.
_LABELS = 1 << 28


@dataclasses.dataclass(frozen=True)
class Place:
    """Which record of a corpus.

    Attributes:
      language: its name.
      shard: number of the shard in the language.
      block: number of the record in the shard.
      index: fixes the noise, see `example_index`.
    """

    language: str
    shard: int
    block: int
    index: int


@dataclasses.dataclass(frozen=True)
class Masking:
    """What is to be predicted in an input.

    Attributes:
      source: the feature that is corrupted.
      positions: int32[k], ascending, in it.
      targets: int32[k], what stood there.
      fates: int64[k], MASKED, RANDOM or KEPT.
    """

    source: str
    positions: np.ndarray
    targets: np.ndarray
    fates: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trace:
    """A record, the example made of it, and where the tokens of the example came from.

    Attributes:
      place: which record.
      tokens: int32[n], those of all its segments one after the other.
      ends: where each segment ends in `tokens`.
      example: as in training, unpadded.
      origins: feature of token ids -> int64, positions in `tokens`, or ADDED. At a masked position
        it is that of the token to be predicted.
      maskings: one for each input of objectives that predict at positions, else none.
      is_noise: bool[n], what is to be predicted or was removed.
      spans: int64[k, 2], start and end in `tokens` of what was removed, in order. Objectives that
        predict at positions remove nothing.
    """

    place: Place
    tokens: np.ndarray
    ends: tuple[int, ...]
    example: Example
    origins: dict[str, np.ndarray]
    maskings: tuple[Masking, ...]
    is_noise: np.ndarray
    spans: np.ndarray


def trace(
    objective: Objective,
    place: Place,
    segments: tuple[np.ndarray, ...],
    specials: Specials,
    *,
    seed: int,
    epoch: int,
) -> Trace:
    """Makes the example of a record, and follows its tokens.

    Args:
      objective: corrupts the record.
      place: of the record.
      segments: one or two int32 arrays.
      specials: of the vocabulary.
      seed: of the noise.
      epoch: how often the language was read before.

    Raises:
      UserError: tokens cannot be followed, because the noise of the objective depends on ids, or
        its features have other names.
    """
    tokens = np.concatenate(segments)
    ends = tuple(itertools.accumulate(segment.size for segment in segments))
    labels, labelled = _label(tokens, specials)
    example = objective(*segments, generator(seed, epoch, place.index), specials)
    followed = objective(
        *np.split(labels, ends[:-1]), generator(seed, epoch, place.index), labelled
    )
    origins = {
        name: _origins(ids, labels, labelled)
        for name, ids in followed.items()
        if name not in INPUT_OF
    }
    maskings = []
    for name, source in INPUT_OF.items():
        if name in example:
            targets = name.replace("positions", "targets")
            seen, label = followed[source][followed[name]], followed[targets]
            fates = np.where(seen == labelled.mask, MASKED, np.where(seen == label, KEPT, RANDOM))
            maskings.append(Masking(source, example[name], example[targets], fates))
            origins[source][followed[name]] = origins[targets]
    if not (maskings or {SOURCE, TARGET} <= set(example)):
        raise _untraceable(objective, f"its features are {', '.join(example)}")
    if not _agree(tokens, example, followed, origins, maskings, specials):
        raise _untraceable(objective, "its noise depends on the values of ids")
    if maskings:
        noise = np.concatenate([origins[m.source][m.positions] for m in maskings])
        is_noise = np.isin(np.arange(tokens.size), noise)
        spans = np.zeros((0, 2), np.int64)
    else:
        is_noise = ~np.isin(np.arange(tokens.size), origins[SOURCE])
        spans = _runs(is_noise, ends)
    return Trace(place, tokens, ends, example, origins, tuple(maskings), is_noise, spans)


def _label(tokens: np.ndarray, specials: Specials) -> tuple[np.ndarray, Specials]:
    """A label for each token, ordinary where that is, and the special ids that go with them."""
    mask = _LABELS + 4
    first_sentinel = mask + 2 + tokens.size
    labelled = Specials(
        0,
        1,
        2,
        3,
        mask=mask,
        doc=mask + 1,
        vocab_size=first_sentinel + specials.sentinels,
        sentinels=specials.sentinels,
    )
    first = np.where(specials.is_ordinary(tokens), labelled.first_ordinary, mask + 2)
    return (first + np.arange(tokens.size)).astype(np.int32), labelled


def _origins(ids: np.ndarray, labels: np.ndarray, labelled: Specials) -> np.ndarray:
    ids = ids.astype(np.int64)
    first = np.where(labelled.is_ordinary(ids), labelled.first_ordinary, labelled.doc + 1)
    positions = np.clip(ids - first, 0, labels.size - 1)
    return np.where(labels[positions] == ids, positions, ADDED)


def _agree(
    tokens: np.ndarray,
    example: Example,
    followed: Example,
    origins: Mapping[str, np.ndarray],
    maskings: list[Masking],
    specials: Specials,
) -> bool:
    """Whether the tokens of the example are those that its labels say."""
    if any(ids.size != followed[name].size for name, ids in example.items()):
        return False
    for name, came_from in origins.items():
        added = came_from == ADDED
        same = np.where(
            added, ~specials.is_ordinary(example[name]), example[name] == tokens[came_from]
        )
        for masking in maskings:
            if masking.source == name:
                same[masking.positions] = True
        if not same.all():
            return False
    return all((example[name] == followed[name]).all() for name in INPUT_OF if name in example)


def _untraceable(objective: Objective, reason: str) -> UserError:
    return UserError(
        "objective", type(objective).__name__, f"{reason}, so its tokens cannot be followed."
    )


def _runs(is_noise: np.ndarray, ends: tuple[int, ...]) -> np.ndarray:
    """int64[k, 2]: start and end of the runs of True, cut where segments end."""
    change = np.flatnonzero(np.diff(is_noise, prepend=False, append=False))
    borders = [end for end in ends[:-1] if is_noise[end - 1 : end + 1].sum() == 2]
    return np.sort(np.concatenate((change, borders, borders))).astype(np.int64).reshape(-1, 2)


@dataclasses.dataclass
class ExampleCounts:
    """Counts of traced examples.

    Attributes:
      records: how many.
      tokens: tokens of the records.
      ordinary: of these, ordinary ones.
      corrupted: of the ordinary ones, those to be predicted or removed.
      documents_ended: [DOC] in the records (of pairs: in the first segments).
      lengths: feature -> its length in each example.
      spans: length -> number of removed spans of it.
      spans_per_record: number of spans -> records that have so many.
      fates: MASKED, RANDOM, KEPT -> tokens.
    """

    records: int = 0
    tokens: int = 0
    ordinary: int = 0
    corrupted: int = 0
    documents_ended: int = 0
    lengths: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    spans: Counter[int] = dataclasses.field(default_factory=Counter)
    spans_per_record: Counter[int] = dataclasses.field(default_factory=Counter)
    fates: Counter[int] = dataclasses.field(default_factory=Counter)

    def add(self, traced: Trace, specials: Specials) -> None:
        """Counts one more example."""
        ordinary = specials.is_ordinary(traced.tokens)
        self.records += 1
        self.tokens += traced.tokens.size
        self.ordinary += int(np.count_nonzero(ordinary))
        self.corrupted += int(np.count_nonzero(ordinary & traced.is_noise))
        first = traced.tokens[: traced.ends[0]]
        self.documents_ended += int(np.count_nonzero(first == specials.doc))
        for name, ids in traced.example.items():
            self.lengths.setdefault(name, []).append(ids.size)
        self.spans.update((traced.spans[:, 1] - traced.spans[:, 0]).tolist())
        self.spans_per_record[len(traced.spans)] += 1
        for masking in traced.maskings:
            self.fates.update(masking.fates.tolist())

    @property
    def noise(self) -> float:
        """Share of the ordinary tokens that are corrupted."""
        return self.corrupted / max(self.ordinary, 1)

    @property
    def mean_span(self) -> float:
        """Tokens per removed span; 0 without any."""
        return sum(n * count for n, count in self.spans.items()) / max(self.spans.total(), 1)

    def padding(self, name: str, static: int) -> float:
        """Share of a feature that is padding, in rows of `static` tokens."""
        lengths = self.lengths.get(name, [])
        return 1 - sum(lengths) / max(len(lengths) * static, 1)

    @classmethod
    def total(cls, parts: Mapping[str, ExampleCounts]) -> ExampleCounts:
        """The sum of the counts of several languages."""
        total = cls()
        for part in parts.values():
            for name in ("records", "tokens", "ordinary", "corrupted", "documents_ended"):
                setattr(total, name, getattr(total, name) + getattr(part, name))
            for name, lengths in part.lengths.items():
                total.lengths.setdefault(name, []).extend(lengths)
            for name in ("spans", "spans_per_record", "fates"):
                getattr(total, name).update(getattr(part, name))
        return total


def span_law(objective: Objective, payload: int) -> tuple[str, np.ndarray] | None:
    """The distribution of span lengths that the settings of an objective call for.

    Args:
      objective: any.
      payload: tokens of a full record.

    Returns:
      (name, probability of the lengths 1, 2, ...); None where there is no simple law. The spans of
      short records are shorter: a last one is trimmed, or one is cut at the end of the record.
    """
    if isinstance(objective, SpanDenoise) and objective.sampler == "exact":
        mean = objective.mean_span
        return f"Poisson({mean:g}) given > 0, untrimmed", np.diff(
            poisson_cdf(mean, given_positive=True)
        )
    if isinstance(objective, SpanCorruption):
        noise, spans = noise_counts(payload, objective.rate, objective.mean_span)
        if spans > 1:
            # Of the compositions of N into S parts, those whose first part is l.
            ways = [
                math.comb(noise - length - 1, spans - 2) for length in range(1, noise - spans + 2)
            ]
            law = np.array([n / math.comb(noise - 1, spans - 1) for n in ways])
            return f"{noise} tokens cut into {spans} spans", law
    return None
