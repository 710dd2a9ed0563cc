"""Checks of a fine-tuning that need neither a vocabulary nor an example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqrecipes.config.finetuning import Finetuning
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig

if TYPE_CHECKING:
    from seqrecipes.data.labelled.records import LabelledSplit
    from seqrecipes.data.labelled.sets import LabelledSet


def check(
    finetuning: Finetuning, config: ModelConfig, scored: LabelledSplit = "test"
) -> LabelledSet:
    """The set that is named, after all checks.

    Args:
      finetuning: as written.
      config: of the model that is fine-tuned.
      scored: the split to be scored.

    Raises:
      UserError: whatever cannot work, by field.
    """
    from seqrecipes.data.labelled.sets import check_labels

    labelled = find_set(finetuning)
    _check_languages(finetuning, labelled, scored)
    if labelled.kind == "generation" and not config.decoder_layers:
        raise UserError(
            "Finetuning.checkpoint",
            finetuning.checkpoint,
            f"is an encoder alone; {finetuning.set} is to be generated, which needs a decoder",
        )
    _check_lengths(finetuning, config)
    check_labels(labelled, finetuning.languages or labelled.languages)
    return labelled


def find_set(finetuning: Finetuning) -> LabelledSet:
    """The labelled set that is named; its module is imported."""
    from seqrecipes.data.labelled.registry import get_set
    from seqrecipes.data.registry import import_tasks

    import_tasks(finetuning.tasks, "Finetuning.tasks")
    return get_set(finetuning.set)


def _check_languages(finetuning: Finetuning, labelled: LabelledSet, scored: LabelledSplit) -> None:
    needed: dict[str, list[str]] = {
        language: [scored] for language in finetuning.languages or labelled.languages
    }
    needed[finetuning.language] = ["train", "validation", *needed.get(finetuning.language, [])]
    for language, splits in needed.items():
        there = labelled.splits(language)
        if missing := [split for split in dict.fromkeys(splits) if split not in there]:
            others = [each for each in labelled.languages if scored in labelled.splits(each)]
            trained = language == finetuning.language and missing != [scored]
            raise UserError(
                "Finetuning.language" if trained else "Finetuning.languages",
                language,
                f"{labelled.name} has no {' and no '.join(missing)} split of it; there are "
                f"{scored} splits in {others}",
            )


def _check_lengths(finetuning: Finetuning, config: ModelConfig) -> None:
    limit = config.max_positions
    for name, length in finetuning.lengths.items():
        if name.endswith("_tokens") and length > limit:
            raise UserError(
                "Finetuning.lengths", f"{name}: {length}", f"the model has {limit} positions"
            )
