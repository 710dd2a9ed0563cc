"""The updates of the scaling sheet: a base of some size, varied along one axis at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

KINDS = ("mlm", "seq2seq")
AXES = ("length", "vocabulary", "layers", "batch", "devices")


@dataclasses.dataclass(frozen=True)
class Case:
    """One update.

    Attributes:
      kind: 'mlm' or 'seq2seq'.
      hidden: width of the model; feed-forward is four times as wide, heads have 64.
      length: tokens of an example, in and out alike.
      vocabulary: ids.
      layers: of the encoder, and as many of the decoder.
      batch: examples, over all devices.
      devices: how many.
      frozen: encoder and token table do not train.
      partitioning: fields of `Partitioning`; `data` takes what they leave.
      dtype: type of activations.
    """

    kind: str
    hidden: int
    length: int
    vocabulary: int
    layers: int
    batch: int
    devices: int = 1
    frozen: bool = False
    partitioning: dict[str, Any] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden": 64, "length": 32, "vocabulary": 256, "layers": 1, "batch": 8},
    "small": {"hidden": 256, "length": 256, "vocabulary": 16_000, "layers": 2, "batch": 8},
    # Soltan et al. 2023, Table 1, with 8 examples to a device at one time.
    "paper": {
        "hidden": 1024,
        "length": 512,
        "vocabulary": 150_000,
        "layers": 12,
        "batch": 64,
        "dtype": "bfloat16",
    },
}
FACTORS = {
    "length": (0.25, 0.5, 1, 2),
    "vocabulary": (0.25, 1, 4),
    "layers": (1, 2, 4),
    "batch": (0.25, 0.5, 1, 2),
    "devices": (1, 2, 4, 8),
}
_ALL = 8
MESHES: dict[str, dict[str, Any]] = {
    "data 8": {},
    "data 8, no ZeRO-1": {"zero1": False},
    "data 8, no ZeRO-1, 4 micro-batches": {"zero1": False, "micro_batches": 4},
    "fsdp 8": {"fsdp": 8},
    "data 4, tensor 2": {"tensor": 2},
    "data 2, fsdp 2, tensor 2": {"fsdp": 2, "tensor": 2},
}


def along(axis: str, kind: str, size: str) -> list[Case]:
    """The base with one of its sizes varied."""
    base = Case(kind, **SIZES[size])
    values = [round(getattr(base, axis) * factor) for factor in FACTORS[axis]]
    # Devices share a batch that each of them has a part of.
    return [dataclasses.replace(base, **{axis: value}) for value in values if value]


def on_meshes(kind: str, size: str) -> list[tuple[str, Case]]:
    """The base on every mesh of eight devices, unfrozen and frozen, with the mesh's name."""
    base = Case(kind, devices=_ALL, **SIZES[size])
    base = dataclasses.replace(base, batch=4 * _ALL)
    return [
        (name, dataclasses.replace(base, frozen=frozen, partitioning=fields))
        for frozen in (False, True)
        for name, fields in MESHES.items()
    ]


def training(case: Case, *, scan_layers: bool, whole: bool = False) -> Any:
    """The stage of a case.

    Args:
      case: which.
      scan_layers: whether layers are a loop.
      whole: nothing is dropped, and logits are in one piece: for counting, as XLA counts the body
        of a loop once, and random bits like arithmetic.
    """
    from benchmarks import one_stage
    from seqrecipes.config.training import Partitioning
    from seqrecipes.models import config
    from seqrecipes.training.phases import ENCODER

    seq2seq = case.kind == "seq2seq"
    dropout = 0.0 if whole else 0.1
    shape = config.load(
        f"configs/{'bart_12e12d' if seq2seq else 'roberta_12e'}.py",
        size="mini",
        vocab_size=case.vocabulary,
        overrides={
            "hidden_size": case.hidden,
            "mlp_size": 4 * case.hidden,
            "num_heads": max(2, case.hidden // 64),
            "encoder_layers": case.layers,
            "decoder_layers": case.layers if seq2seq else 0,
            "max_positions": case.length,
            "dtype": case.dtype,
            "tie_head": False,
            "dropout": dropout,
            "attention_dropout": dropout,
            "scan_layers": scan_layers,
        },
    )
    masked = max(1, case.length * 15 // 100)
    own = (
        {"decoder_input_tokens": case.length, "decoder_target_tokens": case.length}
        if seq2seq
        else {"masked_positions": masked, "masked_targets": masked}
    )
    return one_stage.stage(
        shape,
        {"encoder_input_tokens": case.length} | own,
        case.batch,
        tokens=case.length,
        freeze=ENCODER if case.frozen else (),
        partitioning=Partitioning(**case.partitioning),
        logits_tile=case.length if whole else min(128, case.length // 4),
    )
