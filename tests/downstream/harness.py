"""Files of scores as fine-tuning leaves them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping


def write_scores(
    folder: pathlib.Path,
    scores: Mapping[str, Mapping[str, float]],
    *,
    task: str = "udpos",
    model: str = "mlm",
    seed: int = 0,
    **others: object,
) -> pathlib.Path:
    """The folder of one finished seed below `folder`; `scores` by language and metric."""
    run = folder / model / task / str(seed)
    run.mkdir(parents=True)
    content = {
        "task": task,
        "model": model,
        "seed": seed,
        "language": "en",
        "learning_rate": 3e-5,
        "metric": "f1",
        "best_step": 900,
        "validation": {"f1": 95.1},
        "scores": scores,
    } | others
    (run / "scores.json").write_text(json.dumps(content), "utf-8")
    return run
