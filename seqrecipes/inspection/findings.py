"""What there is to say of a task: examples, counts of many more, and what to make of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.order import language_shares
from seqrecipes.inspection.excerpt import Excerpt, TextCounts, spread
from seqrecipes.inspection.panes import Shown, show
from seqrecipes.inspection.trace import ExampleCounts, span_law, trace

_MUCH_PADDING = 0.5


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to look at.

    Attributes:
      payload: the most tokens of a segment.
      records: how many to count, over all languages.
      examples: how many to show.
      seed: of the noise.
      epoch: how often the text was read before.
      alpha: exponent of the languages' shares.
    """

    payload: int
    records: int
    examples: int
    seed: int = 0
    epoch: int = 0
    alpha: float = 0.3


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was seen of a task.

    Attributes:
      title: the name of the task.
      facts: how it was looked at, by name.
      examples: to be shown.
      counts: language -> counts of its examples.
      total: the same of all together.
      texts: language -> counts of its text.
      scope: what `texts` counts, in words.
      static: feature -> its length in a batch.
      max_specials: the most special tokens in a record, on which static lengths depend.
      shares: language -> its share in training; empty where it is not known.
      law: what span lengths should be distributed like, see `span_law`.
      notes: what to know, and what would help.
    """

    title: str
    facts: dict[str, str]
    examples: list[Shown]
    counts: dict[str, ExampleCounts]
    total: ExampleCounts
    texts: dict[str, TextCounts]
    scope: str
    static: dict[str, int]
    max_specials: int
    shares: dict[str, float]
    law: tuple[str, np.ndarray] | None
    notes: list[str]

    def features(self) -> list[list[str]]:
        """The names of the features, those together that are always of one length."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, lengths in self.total.lengths.items():
            groups.setdefault((self.static[name], *lengths), []).append(name)
        return list(groups.values())


def collect(
    title: str,
    facts: dict[str, str],
    objective: Objective,
    excerpt: Excerpt,
    languages: Sequence[str],
    piece: Callable[[int], str],
    settings: Settings,
) -> Findings:
    """Reads records, makes their examples, and counts.

    Args:
      title: the name of the task.
      facts: how it is looked at, by name.
      objective: makes the examples.
      excerpt: gives the records.
      languages: which of its languages.
      piece: gives the piece of an id.
      settings: how many, and which noise.
    """
    examples, counts, most = [], {}, 0
    shown = _choose(settings.examples, languages)
    for language, wanted in spread(settings.records, languages).items():
        count = counts[language] = ExampleCounts()
        for place, segments in excerpt.records(language, max(wanted, shown[language])):
            traced = trace(
                objective,
                place,
                segments,
                excerpt.specials,
                seed=settings.seed,
                epoch=settings.epoch,
            )
            if count.records < shown[language]:
                examples.append(show(traced, excerpt.specials, piece))
            count.add(traced, excerpt.specials)
            special = ~excerpt.specials.is_ordinary(traced.tokens)
            most = max(most, int(np.count_nonzero(special)))
    max_specials = excerpt.max_specials(most)
    known = [excerpt.texts[language].all_records for language in excerpt.languages]
    shares = {}
    if None not in known and any(known):
        values = language_shares(np.array(known), settings.alpha).tolist()
        shares = dict(zip(excerpt.languages, values, strict=True))
    findings = Findings(
        title,
        facts,
        examples,
        counts,
        ExampleCounts.total(counts),
        {language: excerpt.texts[language] for language in languages},
        excerpt.scope,
        objective.lengths(settings.payload, max_specials),
        max_specials,
        shares,
        span_law(objective, settings.payload),
        [],
    )
    findings.notes.extend(_notes(findings, settings, pairs_apart=_apart(objective, excerpt)))
    return findings


def _choose(examples: int, languages: Sequence[str]) -> Counter[str]:
    """How many examples of each language to show: of many languages some, far apart."""
    size = len(languages)
    steps = [k % size if examples > size else k * size // examples for k in range(examples)]
    return Counter(languages[step] for step in steps)


def _apart(objective: Objective, excerpt: Excerpt) -> bool:
    return objective.reads != "blocks" and not excerpt.join_pairs


def _notes(findings: Findings, settings: Settings, *, pairs_apart: bool) -> list[str]:
    notes = []
    wanted = spread(settings.records, list(findings.counts))
    if findings.total.records < settings.records:
        short = [name for name, count in findings.counts.items() if count.records < wanted[name]]
        named = "every language" if len(short) == len(wanted) else ", ".join(short)
        notes.append(
            f"{settings.records:,} records were asked for and {findings.total.records:,} are "
            f"there; too few in {named}."
        )
    padded = []
    for names in findings.features():
        static, longest = (
            findings.static[names[0]],
            max(findings.total.lengths[names[0]], default=0),
        )
        padding = findings.total.padding(names[0], static)
        if padding > _MUCH_PADDING:
            padded.append(
                f"{padding:.0%} of {' and '.join(names)} (the longest has {longest} of {static})"
            )
    if padded:
        join = "join_pairs=True in tasks/pretrain.py puts several pairs in a record; "
        notes.append(
            f"Padding is {', '.join(padded)}: {join if pairs_apart else ''}a shorter "
            "--sequence_length has less."
        )
    for language, text in findings.texts.items():
        if text.bad_records:
            notes.append(
                f"{language}: {text.bad_records:,} bad records were skipped, such as "
                f"{text.problems[0]}"
            )
    return notes
