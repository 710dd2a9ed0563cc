"""Scores a fine-tuned checkpoint anew, on any language and split, by what it says of itself."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqrecipes import hugging_face, models
from seqrecipes.config.training import Partitioning
from seqrecipes.downstream import preparing, scoring
from seqrecipes.downstream.scoring import Scorer
from seqrecipes.errors import UserError
from seqrecipes.finetuning import Facts
from seqrecipes.models import ModelConfig
from seqrecipes.training import checkpoints, environment

if TYPE_CHECKING:
    from seqrecipes.data.labelled.records import LabelledSplit


class FineTuned:
    """A fine-tuned checkpoint.

    Args:
      path: a seed's folder, or one of its checkpoints.

    Raises:
      UserError: it is none, or JAX is set so that scores would differ.
    """

    def __init__(self, path: str):
        environment.check()
        self.folder = checkpoints.find(path, field="--checkpoint")
        self.metadata = checkpoints.read_metadata(self.folder)
        self.facts = Facts.of_checkpoint(self.metadata, field="--checkpoint", value=path)

    @property
    def run_dir(self) -> pathlib.Path:
        """The folder of the run that it belongs to."""
        return self.folder.parents[2]

    def evaluate(
        self,
        languages: Sequence[str],
        split: LabelledSplit,
        *,
        vocabulary: str = "",
        output: pathlib.Path | None = None,
    ) -> dict[str, dict[str, float]]:
        """{language: scores}; predictions go to `<language>.jsonl` of `output`.

        Args:
          languages: of its set; none is all that have the split.
          split: of the set.
          vocabulary: path of its SentencePiece model, where that is not in the run's folder.
          output: folder for predictions.

        Raises:
          UserError: the set has other labels now, lacks a language or split, or has nothing there.
        """
        from seqrecipes.data.labelled.registry import get_set
        from seqrecipes.data.vocabulary import Vocabulary

        labelled = get_set(self.facts.set)
        for language in languages:
            if split not in labelled.splits(language):
                raise UserError("--languages", language, f"{labelled.name} has no {split} of it")
        languages = languages or [
            each for each in labelled.languages if split in labelled.splits(each)
        ]
        self.facts.check_labels(labelled)
        file = vocabulary or str(self.run_dir / preparing.VOCABULARY)
        hugging_face.find_vocabulary(self.folder, self.metadata, file)
        config = ModelConfig.from_dict(self.metadata["model"], field="--checkpoint")
        partitioning = Partitioning()
        mesh = partitioning.mesh()
        scorer = Scorer(self.facts, config, labelled, Vocabulary(file), partitioning, mesh)
        shapes = models.shapes(scorer.model)
        params = checkpoints.restore_params(self.folder, shapes, partitioning.placement(mesh))
        with partitioning.on(mesh):
            return scoring.score_languages(scorer, params, languages, split, output)
