"""The identity of a run: what decides its numbers, kept in its folder.

A run goes on only under the recipe that it was begun with, and a stage of another run stands for
one of this recipe only if it would be trained alike.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seqrecipes.config import optimizers
from seqrecipes.config.recipe import Phase, Recipe, Stage
from seqrecipes.config.training import Loss
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.recipe import RECIPE_FILE
from seqrecipes.resolve import ResolvedStage
from seqrecipes.training import checkpoints

# What changes speed and memory alone, or is written elsewhere.
_FREE_OF_MODELS = ("attention", "scan_layers", "remat")
_FREE_OF_PHASES = ("micro_batches",)
_FREE_OF_STAGES = ("model_overrides",)


def identity(
    recipe: Recipe,
    resolved: Sequence[ResolvedStage],
    data: Mapping[str, Any],
    streams: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What decides the numbers that come out.

    Left out is what changes speed, memory, or what is shown: the mesh, micro-batches,
    checkpointing, reports, rematerialisation, scanning and the implementation of attention.

    Args:
      recipe: as written.
      resolved: its stages.
      data: what there is to say of the text.
      streams: {name of a stage: what there is to say of its examples}.
    """
    stages = []
    for one in resolved:
        written = dataclasses.asdict(one.stage)
        model = one.training.model.config.to_dict()
        for name in _FREE_OF_MODELS:
            model.pop(name)
        for name in _FREE_OF_STAGES:
            written.pop(name)
        for phase in written["phases"]:
            for name in _FREE_OF_PHASES:
                phase.pop(name)
        written |= {
            "model": model,
            "seed": one.training.seed,
            "optimizer": one.stage.optimizer.to_dict(),
        }
        stages.append({**written, **streams[one.stage.name]})
    fields = ("corpus", "sequence_length", "smoothing", "seed")
    return plain({**{name: getattr(recipe, name) for name in fields}, **data, "stages": stages})


def plain(value: Any) -> Any:
    """The value as JSON would give it back."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def differences(old: Any, new: Any, path: str = "Recipe") -> list[str]:
    """Where two identities differ: `Recipe.seed: 0 there, 1 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            for line in differences(a, b, f"{path}[{i}]")
        ]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} now"]


def check_folder(
    model_dir: pathlib.Path, ours: Mapping[str, Any], stages: Sequence[ResolvedStage] = ()
) -> None:
    """Refuses a folder that holds another recipe.

    Where the folder does not say what it is for, its stages' checkpoints do.

    Raises:
      UserError: names every value that differs.
    """
    file = model_dir / RECIPE_FILE
    theirs = read(file) if file.exists() else _of_checkpoints(stages)
    if theirs is not None and (changed := differences(_with_defaults(theirs), ours)):
        raise UserError(
            "MODEL_DIR",
            str(model_dir),
            f"holds another recipe ({'; '.join(changed)}); choose another folder or restore these "
            "values",
        )


def check_shared(resolved: Sequence[ResolvedStage], ours: dict[str, Any]) -> None:
    """Refuses to take a stage from another run that was trained otherwise, or not to its end.

    Raises:
      UserError: names every value that differs.
    """
    for stage, written in zip(resolved, ours["stages"], strict=True):
        if not stage.shared:
            continue
        name, run = stage.stage.name, stage.folder.parent
        theirs = read(run / RECIPE_FILE)
        theirs = _with_defaults(theirs)
        changed = differences(theirs | {"stages": []}, ours | {"stages": []})
        same = {each["name"]: each for each in theirs["stages"]}
        changed += differences(same.get(name), written, f"stage {name}")
        if changed:
            raise UserError(
                "Recipe.shared",
                str(run),
                f"trained another {name} ({'; '.join(changed)}); restore these values, or leave it "
                "out",
            )
        if not stage.finished:
            raise UserError(
                "Recipe.shared",
                str(run),
                f"has not finished {name}; train it there first",
            )


def _of_checkpoints(stages: Sequence[ResolvedStage]) -> dict[str, Any] | None:
    """The recipe that the first stage with a checkpoint was trained by."""
    metadata = first_metadata(stage.folder for stage in stages if not stage.shared)
    return None if metadata is None else metadata["recipe"]


def first_metadata(folders: Iterable[pathlib.Path]) -> dict[str, Any] | None:
    """The metadata of the latest checkpoint in the first folder that has one."""
    for folder in folders:
        if checkpoints.latest_step(folder) is not None:
            return checkpoints.read_metadata(checkpoints.find(folder, field="MODEL_DIR"))
    return None


def _with_defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe that was written before a field came, with the field's default.

    A new field's default is what was done before there was the field.
    """
    stages = []
    for stage in recipe["stages"]:
        parts = {
            "optimizer": plain(optimizers.complete(stage["optimizer"])),
            "loss": _defaults(Loss) | stage["loss"],
            "phases": [_defaults(Phase, *_FREE_OF_PHASES) | phase for phase in stage["phases"]],
            "model": _defaults(ModelConfig, *_FREE_OF_MODELS) | stage["model"],
        }
        stages.append(_defaults(Stage, *_FREE_OF_STAGES, *parts) | stage | parts)
    return recipe | {"stages": stages}


def _defaults(cls: type, *left_out: str) -> dict[str, Any]:
    return plain(
        {
            field.name: field.default
            for field in dataclasses.fields(cls)
            if field.default is not dataclasses.MISSING and field.name not in left_out
        }
    )


def read(file: pathlib.Path) -> dict[str, Any]:
    """What a run's folder says that it is for.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        remedy = f"cannot be read ({error}); remove the file: the checkpoints say the same"
        raise UserError("MODEL_DIR", str(file), remedy) from error
