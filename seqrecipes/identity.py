"""The identity of a run: what decides its numbers, kept in its folder.

A run goes on only under the recipe that it was begun with, and a stage of another run stands for
one of this recipe only if it would be trained alike.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqrecipes.config.recipe import Recipe
from seqrecipes.errors import UserError
from seqrecipes.recipe import RECIPE_FILE
from seqrecipes.resolve import ResolvedStage


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
        for name in ("attention", "scan_layers", "remat"):
            model.pop(name)
        written.pop("model_overrides")
        for phase in written["phases"]:
            phase.pop("micro_batches")
        written |= {"model": model, "seed": one.training.seed}
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


def check_folder(model_dir: pathlib.Path, ours: Mapping[str, Any]) -> None:
    """Refuses a folder that holds another recipe.

    Raises:
      UserError: names every value that differs.
    """
    file = model_dir / RECIPE_FILE
    if file.exists() and (changed := differences(_read(file), ours)):
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
        theirs = _read(run / RECIPE_FILE)
        same = {each["name"]: each for each in theirs["stages"]}
        changed = differences(theirs | {"stages": []}, ours | {"stages": []})
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


def _read(file: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError("MODEL_DIR", str(file), f"cannot be read: {error}") from error
