"""The masked-language-modelling collator of Hugging Face transformers, as its users call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from seqrecipes.data.objectives.base import Specials

# What the collator is given, and what it returns. `dicts` is what a dataset of tokenized text gives
# it, with the special tokens marked. `rows` are bare sequences of ids, in which it finds the
# special tokens itself: rare in practice, but much faster.
VARIANTS = (
    ("bare lists to NumPy", "rows", "lists", "np"),
    ("bare arrays to NumPy", "rows", "arrays", "np"),
    ("dicts of lists to NumPy", "dicts", "lists", "np"),
    ("bare lists to PyTorch", "rows", "lists", "pt"),
    ("bare tensors to PyTorch", "rows", "tensors", "pt"),
    ("dicts of lists to PyTorch", "dicts", "lists", "pt"),
)

Collate = Callable[[list[Any]], dict[str, Any]]


def collator(specials: Specials, tensors: str) -> Collate:
    """DataCollatorForLanguageModeling at its defaults (15%, of these 80/10/10).

    Args:
      specials: the layout of the vocabulary; its tokenizer is made up of numbers.
      tensors: 'np' or 'pt'.
    """
    import tokenizers
    import transformers

    pieces = {f"piece {i}": i for i in range(specials.vocab_size)}
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    for field, piece in names.items():
        number = getattr(specials, field)
        del pieces[f"piece {number}"]
        pieces[piece] = number
    model = tokenizers.models.WordLevel(pieces, unk_token="<unk>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    return transformers.DataCollatorForLanguageModeling(
        tokenizer=tokenizer, mlm_probability=0.15, return_tensors=tensors
    )


def examples(rows: np.ndarray, specials: Specials, form: str, kind: str) -> list[Any]:
    """Examples for the collator.

    Args:
      rows: int32[k, n], <s> and </s> included.
      specials: what must not be masked.
      form: 'rows' or 'dicts', see `VARIANTS`.
      kind: 'lists', 'arrays' or 'tensors'.
    """
    columns = {"input_ids": _column(rows, kind)}
    if form == "rows":
        return columns["input_ids"]
    columns["special_tokens_mask"] = _column(~specials.is_ordinary(rows), kind)
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _column(rows: np.ndarray, kind: str) -> list[Any]:
    arrays = list(rows.astype(np.int64))
    if kind == "arrays":
        return arrays
    if kind == "lists":
        return [row.tolist() for row in arrays]
    import torch

    torch.set_num_threads(1)
    return [torch.from_numpy(row) for row in arrays]
