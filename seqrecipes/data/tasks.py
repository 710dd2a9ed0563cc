"""Pre-training tasks: a corpus under an objective, named `<corpus>.<objective>`.

A task module (`tasks/pretrain.py`) declares them. For seqio they are made into tasks of its own in
`seqrecipes.data.seqio.tasks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import numpy as np

from seqrecipes.config.vocabulary import pretraining_vocabulary
from seqrecipes.data import registry
from seqrecipes.data.corpora.corpus import Corpus, Split
from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.records import DEFAULT_LENGTH, Packing, Summary
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True)
class PretrainingTask:
    """A corpus and an objective.

    Attributes:
      name: `<corpus>.<objective>`.
      make_corpus: makes the corpus. It is called at every use and not before, so that gin bindings
        are read after the task was declared.
      objective: corrupts a record.
      vocabulary: tokenizes.
      payload: the most tokens of a segment; 0 is what fits sequences of 512.
      join_pairs: whether consecutive pairs are put together, see `packing.join_pairs`.
    """

    name: str
    make_corpus: Callable[[], Corpus]
    objective: Objective
    vocabulary: Vocabulary
    payload: int = 0
    join_pairs: bool = False

    @property
    def corpus(self) -> Corpus:
        """The corpus as configured now."""
        return self.make_corpus()

    @property
    def packing(self) -> Packing:
        """How its records are made."""
        payload = self.payload or self.objective.payload(DEFAULT_LENGTH)
        return Packing(self.vocabulary, self.objective.reads, payload, self.join_pairs)

    def sized(self, payload: int) -> PretrainingTask:
        """The same task with another payload, on the corpus as it is now."""
        corpus = self.corpus
        return dataclasses.replace(self, make_corpus=lambda: corpus, payload=payload)

    def shards(self, split: str) -> list[tuple[str, int]]:
        """(language, shard of it) of all languages."""
        corpus = self.corpus
        return [
            (language, shard)
            for language in corpus.languages
            for shard in range(corpus.shards(language, cast(Split, split)))
        ]

    def records(
        self, split: str, language: str, shard: int, seen: Summary
    ) -> Iterator[tuple[np.ndarray, int]]:
        """The records of a shard, see `Packing.segments`; `seen` counts what is read.

        Raises:
          UserError: while iterating, what the corpus has to say.
        """
        documents = self.corpus.documents(language, cast(Split, split), shard)
        return self.packing.records(documents, seen)


def register_tasks(
    texts: Mapping[str, Callable[[], Corpus]],
    translations: Mapping[str, Callable[[], Corpus]],
    objectives: Mapping[str, Objective],
    join_pairs: bool = False,
) -> None:
    """Registers `<corpus>.<objective>` for every corpus and the objectives that can read it.

    Args:
      texts: name -> what makes a corpus of texts.
      translations: name -> what makes a corpus of pairs of translations.
      objectives: name -> objective; those that read translations get the second kind of corpus.
      join_pairs: whether consecutive pairs are put together, see `packing.join_pairs`.
    """
    vocabulary = Vocabulary(pretraining_vocabulary)
    for objective, function in objectives.items():
        corpora = translations if function.reads == "translations" else texts
        for corpus, make_corpus in corpora.items():
            name = f"{corpus}.{objective}"
            registry.TASKS[name] = PretrainingTask(
                name, make_corpus, function, vocabulary, join_pairs=join_pairs
            )
    if registry.wanted_by_seqio():
        from seqrecipes.data.seqio import tasks

        tasks.register(registry.TASKS.values())


def known_tasks() -> dict[str, dict[str, PretrainingTask]]:
    """corpus -> objective -> task, of all that `register_tasks` registered."""
    tasks: dict[str, dict[str, PretrainingTask]] = {}
    for name, task in registry.TASKS.items():
        corpus, _, objective = name.partition(".")
        tasks.setdefault(corpus, {})[objective] = task
    return tasks


def get_task(corpus: str, objective: str) -> PretrainingTask:
    """The registered task `<corpus>.<objective>`.

    Raises:
      UserError: it is not registered; lists what is.
    """
    tasks = known_tasks()
    if corpus not in tasks:
        raise UserError("corpus", corpus, f"choose one of {', '.join(sorted(tasks))}.")
    if objective not in tasks[corpus]:
        known = ", ".join(sorted(tasks[corpus]))
        raise UserError("objective", objective, f"corpus {corpus} has {known}.")
    return tasks[corpus][objective]
