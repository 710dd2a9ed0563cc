"""Small checkpoints, and files of labelled sets that a tiny model can learn, for the tests."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np

from seqrecipes import models
from seqrecipes.config.finetuning import Finetuning, Search
from seqrecipes.config.optimizers import AdamW
from seqrecipes.data import pieces
from seqrecipes.training import checkpoints
from tests.models import tiny

# A word's tag is in the word, so that every language can be tagged by what English teaches.
TAGS = {"NOUN": ("tree", "house", "river"), "VERB": ("runs", "sleeps", "sings"), "DET": ("the",)}
INTENTS = ("play", "wake")


def checkpoint(
    folder: pathlib.Path, vocabulary: bytes, *, decoder_layers: int = 0, **overrides: Any
) -> pathlib.Path:
    """Random parameters of a tiny model."""
    config = tiny.config(
        vocab_size=len(pieces.pieces(vocabulary)),
        decoder_layers=decoder_layers,
        encoder_layers=1,
        dropout=0.1,
        max_positions=40,
        **overrides,
    )
    checkpoints.save_params(
        folder,
        jax.jit(lambda: models.init_params(config, 5))(),
        {"model": config.to_dict(), "converted_from": "chance", "conversion": "none"},
        vocabulary=vocabulary,
        account="random",
    )
    return folder


def write_udpos(folder: pathlib.Path, languages: tuple[str, ...] = ("en", "de")) -> None:
    """`udpos/<language>/{train,dev,test}.tsv`; only English has all of them."""
    for language in languages:
        splits = {"train": 24, "dev": 8, "test": 6} if language == "en" else {"test": 5}
        for split, count in splits.items():
            rng = np.random.default_rng([len(language), count])
            text = ""
            for _ in range(count):
                for tag in ("DET", "NOUN", "VERB")[: rng.integers(2, 4)]:
                    text += f"{rng.choice(TAGS[tag])}\t{tag}\n"
                text += "\n"
            _write(folder / "udpos" / language / f"{split}.tsv", text)


def write_xsid(folder: pathlib.Path) -> None:
    """`xsid/<language>/{train,dev,test}.tsv`."""
    for language in ("en", "de"):
        splits = {"train": 16, "dev": 6, "test": 4} if language == "en" else {"test": 3}
        for split, count in splits.items():
            text = "id\tutterance\tslot_labels\tintent\n"
            for number in range(count):
                intent = INTENTS[number % 2]
                text += f"{number}\t{intent} the song\tO O B-{intent}\t{intent}\n"
            _write(folder / "xsid" / language / f"{split}.tsv", text)


def write_xnli(folder: pathlib.Path) -> None:
    """`xnli/<language>/{train,dev,test}.tsv`."""
    for language in ("en", "fr"):
        splits = {"train": 12, "dev": 6, "test": 6} if language == "en" else {"test": 6}
        for split, count in splits.items():
            labels = ("entailment", "neutral", "contradiction")
            rows = [f"the tree\t{labels[n % 3]} runs\t{labels[n % 3]}\n" for n in range(count)]
            _write(folder / "xnli" / language / f"{split}.tsv", "".join(rows))


def write_scitldr(folder: pathlib.Path) -> None:
    """`scitldr/{train,dev,test}.jsonl`: the summary is the document's first word."""
    for split, count in {"train": 8, "dev": 4, "test": 3}.items():
        words = ("river", "house", "tree")
        rows = [
            {"document": f"{words[n % 3]} sleeps", "summaries": [words[n % 3], "the"]}
            for n in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        _write(folder / "scitldr" / f"{split}.jsonl", text)


def write_ntrex(folder: pathlib.Path) -> None:
    """`ntrex/{train,dev,test}.{en,de}.txt`: translations of one word."""
    for split, count in {"train": 8, "dev": 4, "test": 3}.items():
        for language, word in (("en", "house"), ("de", "Haus")):
            _write(folder / "ntrex" / f"{split}.{language}.txt", f"{word}\n" * count)


def _write(file: pathlib.Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def finetuning(**changes: Any) -> Finetuning:
    """Tagging, in eight updates of eight sentences with four validations."""
    values: dict[str, Any] = {
        "set": "udpos",
        "metric": "f1",
        "lengths": {"encoder_input_tokens": 24},
        "optimizer": AdamW(peak=1e-2, warmup_steps=1, floor=0.0),
        "batch_size": 8,
        "epochs": 3,
        "max_updates": 8,
        "languages": ("en", "de"),
        "hidden": (16,),
        "freeze": ("token_embedding",),
        "seeds": (0,),
        "validate_every": 2,
        "log_every": 2,
        "search": Search(beams=2, max_length=12),
    }
    return Finetuning(**(values | changes))
