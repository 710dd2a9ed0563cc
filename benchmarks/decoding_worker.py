"""The process that measures one search: a `Job` in JSON in, one line of JSON out."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

OURS, THEIRS = "seqrecipes", "transformers"
PROGRAMS = (OURS, THEIRS)


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process is told to measure.

    Attributes:
      program: one of `PROGRAMS`.
      folder: an export.
      beams: 1 is greedy search.
      batch: sources at a time.
      source: tokens of each.
      max_length: of a text.
      repetitions: measured batches.
      dtype: compute type.
    """

    program: str
    folder: str
    beams: int
    batch: int
    source: int
    max_length: int
    repetitions: int
    dtype: Literal["float32", "bfloat16"]


def measure(job: Job) -> dict[str, object]:
    """Seconds of each batch, tokens of the best texts, those texts, and the first batch's time."""
    began = time.perf_counter()
    write, device = (_ours if job.program == OURS else _theirs)(job)
    sources = np.random.default_rng(0).integers(4, 1000, (job.batch, job.source), np.int32)
    sources[:, 0], sources[:, -1] = 0, 2
    texts = write(sources)
    first = time.perf_counter() - began
    seconds = []
    for _ in range(job.repetitions):
        start = time.perf_counter()
        write(sources)
        seconds.append(time.perf_counter() - start)
    tokens = texts.size
    if texts.shape != (job.batch, job.max_length) or (texts == 2).any():
        raise ValueError(f"{job.program}: texts ended before {job.max_length} tokens")
    return {
        "seconds": seconds,
        "first": first,
        "tokens": tokens,
        "texts": texts.tolist(),
        "device": device,
    }


def _ours(job: Job) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    import jax
    import jax.numpy as jnp

    from seqrecipes.config.finetuning import Search
    from seqrecipes.config.training import Partitioning
    from seqrecipes.conversion.hf import load
    from seqrecipes.models import build
    from seqrecipes.models.decoding import make_generate

    partitioning = Partitioning()
    mesh = partitioning.mesh(jax.devices()[:1])
    imported = load.load(Path(job.folder), placement=partitioning.placement(mesh))
    model = build(dataclasses.replace(imported.config, dtype=job.dtype))
    generate = make_generate(model, Search(job.beams, job.max_length))

    def write(sources: np.ndarray) -> np.ndarray:
        with partitioning.on(mesh):
            return np.asarray(generate(imported.params, jnp.asarray(sources)).tokens)[:, 0]

    return write, jax.devices()[0].device_kind


def _theirs(job: Job) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    import torch
    import transformers

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if place.type == "cpu" and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        job.folder, dtype=getattr(torch, job.dtype), trust_remote_code=True
    )
    model.to(place).eval()

    def write(sources: np.ndarray) -> np.ndarray:
        ids = torch.from_numpy(sources).long().to(place)
        with torch.inference_mode():
            texts: Any = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_beams=job.beams,
                max_new_tokens=job.max_length,
                do_sample=False,
            )
        return texts[:, 1:].cpu().numpy()

    return write, torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"


if __name__ == "__main__":
    print(json.dumps(measure(Job(**json.loads(sys.argv[1])))))
