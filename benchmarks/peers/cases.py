"""The other libraries as cases, on the tokens that ours read from disk."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.material import payloads
from benchmarks.peers import collator, denoising, sentinels
from benchmarks.timing import Case, Missing
from seqrecipes.data.blocks import Blocks
from seqrecipes.data.objectives.base import Specials

_EXAMPLES = 4096


def peers(objective: str, blocks: Blocks, batch_size: int, folder: Path) -> list[Case | Missing]:
    """What is held against an objective.

    Args:
      objective: its name.
      blocks: what it reads.
      batch_size: examples in a batch.
      folder: for files that peers read.
    """
    specials = blocks.specials
    if objective == "mlm":
        return _collators(objective, _wrapped(blocks), specials, batch_size)
    if objective in ("span_drop", "span_mask"):
        replace_length = int(objective == "span_mask")
        return _denoisers(objective, _wrapped(blocks), specials, replace_length, batch_size)
    if objective == "span_corruption":
        rows = payloads(blocks, _EXAMPLES)
        return _sentinel_pipelines(objective, rows, specials.vocab_size, batch_size, folder)
    return []


def _collators(
    group: str, rows: np.ndarray, specials: Specials, batch_size: int
) -> list[Case | Missing]:
    cases: list[Case | Missing] = []
    for variant, form, kind, tensors in collator.VARIANTS:
        name = f"Hugging Face, {variant}"
        needed = ["transformers", *(["torch"] if tensors == "pt" else [])]
        if absent := _absent(*needed):
            cases.append(Missing(group, name, f"not installed: pip install {absent}"))
            continue
        collate = collator.collator(specials, tensors)
        examples = collator.examples(rows, specials, form, kind)
        cases.append(_batched(group, name, examples, collate, batch_size, rows.shape[1] - 2))
    return cases


def _denoisers(
    group: str, rows: np.ndarray, specials: Specials, replace_length: int, batch_size: int
) -> list[Case | Missing]:
    settings = denoising.Settings(specials.mask, specials.pad, replace_length)
    tokens, sequences = rows.shape[1] - 2, list(rows.astype(np.int64))
    # The published code works on tensors, so it is held against that; the same in NumPy tells
    # how much of the difference is the library's.
    in_numpy = denoising.NumpyDenoising(settings).batch
    cases: list[Case | Missing] = [
        _batched(
            group, "the same sampler in NumPy", sequences, in_numpy, batch_size, tokens, "aside"
        )
    ]
    name = "fairseq's sampler in PyTorch, rewritten"
    if absent := _absent("torch"):
        return [*cases, Missing(group, name, f"not installed: pip install {absent}")]
    import torch

    tensors = [torch.from_numpy(sequence) for sequence in sequences]
    in_torch = denoising.TorchDenoising(settings).batch
    return [*cases, _batched(group, name, tensors, in_torch, batch_size, tokens)]


def _sentinel_pipelines(
    group: str, rows: np.ndarray, vocab_size: int, batch_size: int, folder: Path
) -> list[Case | Missing]:
    def case(name: str, batches: Iterator[dict], role: Literal["peer", "aside"]) -> Case:
        def run(count: int) -> int:
            examples = sum(len(next(iter(next(batches).values()))) for _ in range(count))
            return examples * rows.shape[1]

        return Case(group, name, run, role)

    own = sentinels.own_functions(vocab_size)
    own_task = sentinels.task_batches(rows, own, vocab_size, batch_size, folder / "own.tfrecord")
    own_alone = sentinels.memory_batches(rows, own, batch_size)
    # The package's own requirements name other builds of seqio and TFDS.
    absent = _absent("t5", "babel", "editdistance", "nltk", "rouge_score", "sacrebleu")
    cases: list[Case | Missing] = [
        case("seqio task, T5's steps written anew", own_task, "peer" if absent else "aside"),
        case("T5's corruption alone, written anew", own_alone, "aside"),
    ]
    stock, alone = "seqio task, the t5 package's steps", "the t5 package's corruption alone"
    if absent:
        others = " ".join(name for name in absent.split() if name != "t5")
        install = f"not installed: pip install --no-deps t5; pip install {others}".rstrip(" ;")
        return [Missing(group, stock, install), *cases]
    steps = sentinels.t5_functions(vocab_size, alone=False)
    batches = sentinels.task_batches(rows, steps, vocab_size, batch_size, folder / "t5.tfrecord")
    steps = sentinels.t5_functions(vocab_size, alone=True)
    in_memory = sentinels.memory_batches(rows, steps, batch_size)
    return [case(stock, batches, "peer"), *cases, case(alone, in_memory, "aside")]


def _batched(
    group: str,
    name: str,
    examples: Sequence[Any],
    make: Callable[[list[Any]], Any],
    batch_size: int,
    tokens: int,
    role: Literal["peer", "aside"] = "peer",
) -> Case:
    """Endlessly cuts examples that lie in memory into batches."""
    chosen = itertools.cycle(range(len(examples)))

    def run(count: int) -> int:
        for _ in range(count):
            make([examples[i] for i in itertools.islice(chosen, batch_size)])
        return count * batch_size * tokens

    return Case(group, name, run, role)


def _wrapped(blocks: Blocks) -> np.ndarray:
    """int32[k, payload + 2]: <s> block </s>."""
    rows = payloads(blocks, _EXAMPLES)
    specials = blocks.specials
    return np.pad(rows, [(0, 0), (1, 1)], constant_values=((0, 0), (specials.bos, specials.eos)))


def _absent(*modules: str) -> str:
    names = [name for name in modules if importlib.util.find_spec(name) is None]
    return " ".join(name.replace("_", "-") for name in names)
