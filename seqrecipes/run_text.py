"""The text of a run: its tasks, its vocabulary and its packed records.

Everything can be asked before there is a vocabulary or a packed record; those are made when a run
needs it.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from seqrecipes.config.recipe import Recipe, Stage
from seqrecipes.errors import UserError

if TYPE_CHECKING:
    from seqrecipes.data.blocks import Blocks
    from seqrecipes.data.corpora.corpus import Corpus
    from seqrecipes.data.origin import RunVocabulary
    from seqrecipes.data.tasks import PretrainingTask

_VOCABULARY_FIELDS = (
    *("corpus", "vocabulary_size", "smoothing"),
    *("normalization", "character_coverage", "byte_fallback"),
)
_LEAST_SENTINELS = 101  # as many as DeltaLM has, where an objective needs any


class RunText:
    """The text of a recipe in a folder.

    Args:
      recipe: says which text.
      model_dir: the run's folder.

    Attributes:
      vocabulary_path: the vocabulary's file, there or not.
    """

    def __init__(self, recipe: Recipe, model_dir: pathlib.Path):
        self.recipe, self.model_dir = recipe, model_dir
        source = recipe.shared[0] if recipe.shared else model_dir
        self.vocabulary_path = pathlib.Path(
            recipe.vocabulary or pathlib.Path(source, "vocabulary", "spm.model")
        )
        # Stages that read the same share it; looking at many shards takes a while.
        self._blocks: dict[tuple[str, int], Blocks] = {}

    def task(self, stage: Stage) -> PretrainingTask:
        """The task of a stage."""
        from seqrecipes.data import tasks

        return tasks.get_task(self.recipe.corpus, stage.objective)

    def payload(self, stage: Stage) -> int:
        """The most tokens of a segment of a stage's records."""
        return self.task(stage).objective.payload(self.recipe.sequence_length)

    def original_tokens(self, stage: Stage) -> int:
        """How many tokens of text a full example of a stage is made of."""
        objective = self.task(stage).objective
        segments = 1 if objective.reads == "blocks" else 2
        return objective.original(*[self.payload(stage)] * segments)

    def vocabulary(self) -> RunVocabulary:
        """The vocabulary in the run's folder, made or still to be."""
        from seqrecipes.data.origin import RunVocabulary

        needed = max(
            self.task(stage).objective.sentinels(self.payload(stage))
            for stage in self.recipe.stages
        )
        return RunVocabulary(
            path=self.vocabulary_path,
            folder=self.model_dir / "vocabulary",
            corpus=self.corpus,
            settings=None
            if self.recipe.vocabulary
            else {name: getattr(self.recipe, name) for name in _VOCABULARY_FIELDS},
            sentinels=needed and max(needed, _LEAST_SENTINELS),
        )

    def corpus(self) -> Corpus:
        """The text, with the checksums that an earlier run of the command made."""
        from seqrecipes.data.corpora import contents

        contents.load(self.model_dir / "data" / contents.MEMORY_FILE)
        return self.task(self.recipe.stages[0]).corpus

    def check_corpus(self) -> None:
        """Reads the first training document of every language, or finds what was prepared."""
        if self.recipe.prepared:
            for stage in self.recipe.stages:
                self.blocks(stage)
            return
        from seqrecipes.data.corpora.corpus import texts

        corpus = self.task(self.recipe.stages[0]).corpus
        for language in corpus.languages:
            if next(filter(None, texts(corpus, language, "train")), None) is None:
                raise UserError("corpus", self.recipe.corpus, f"no text in language {language}")

    def blocks(self, stage: Stage) -> Blocks:
        """The packed text of a stage, prepared now where it was not before.

        Raises:
          UserError: the text cannot be used, or what was prepared does not suit the stage.
        """
        from seqrecipes.data.blocks import find_prepared, wanted_records
        from seqrecipes.data.preparation import prepare_blocks

        task, payload = self.task(stage), self.payload(stage)
        key = (task.objective.reads, payload)
        if key not in self._blocks:
            self._blocks[key] = (
                find_prepared(self.recipe.prepared, wanted_records(task, payload))
                if self.recipe.prepared
                else prepare_blocks(task, payload, self.model_dir / "data")
            )
        return self._blocks[key]

    def check_unchanged(self, fingerprint: str) -> None:
        """Refuses text that is another than the run was begun with, which had this fingerprint."""
        from seqrecipes.data import origin

        corpus = self.corpus()
        now = corpus.fingerprint()
        if now != fingerprint:
            origin.refuse_text(self.model_dir, fingerprint, corpus.contents())
