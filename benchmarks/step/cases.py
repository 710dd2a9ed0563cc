"""What is measured: models of given shapes, and synthetic batches for them.

Imports neither JAX nor torch: the processes of all programs read it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqrecipes.errors import UserError

# The ids of our vocabularies: <s>, <pad>, </s>, <unk>; <mask> is the last.
BOS, PAD, EOS, FIRST = 0, 1, 2, 4
_RATE = 0.15


@dataclasses.dataclass(frozen=True)
class Case:
    """One update of one model.

    Attributes:
      name: as the table calls it.
      file: a file in `configs/`, without its suffix.
      size: one of its sizes.
      vocab_size: rows of the token table.
      batch: examples.
      frozen: the encoder and the token table do not train; the head is untied then.
      overrides: fields of the model to replace.
      length: positions of an example, on both sides if there are two.
    """

    name: str
    file: str
    size: str
    vocab_size: int
    batch: int
    frozen: bool = False
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    length: int = 512


# The width and depth that two CPU cores train in seconds.
_SMALL = {"hidden_size": 512, "mlp_size": 2048, "num_heads": 8, "encoder_layers": 4}
# As shallow as can be, for tests.
_TINY = {"hidden_size": 16, "mlp_size": 32, "num_heads": 2, "encoder_layers": 1}
_UNTIED = {"tie_head": False}
GROUPS = ("small", "paper", "tiny")
DEFAULT_BATCH = {"small": 8, "paper": 16, "tiny": 2}


def group(name: str, batch: int | None = None) -> list[Case]:
    """The cases of a group; `batch` replaces its number of examples."""
    batch = DEFAULT_BATCH[name] if batch is None else batch
    if batch < 1:
        raise UserError("--batch", batch, "must be at least 1")
    if name == "paper":
        return _paper(batch)
    shape, vocabulary, length = (_SMALL, 32_000, 512) if name == "small" else (_TINY, 64, 32)
    both = shape | {"decoder_layers": shape["encoder_layers"]}
    return [
        Case("mlm", "roberta_12e", "mini", vocabulary, batch, False, shape, length),
        Case("seq2seq", "bart_12e12d", "mini", vocabulary, batch, False, both, length),
        Case("frozen", "bart_12e12d", "mini", vocabulary, batch, True, both | _UNTIED, length),
    ]


def _paper(batch: int) -> list[Case]:
    """The shapes of Soltan et al. 2023, Table 1; frozen as in its two-stage recipes."""
    cases = []
    for vocabulary in (32_000, 150_000, 250_000):
        for file in ("roberta_12e", "bart_12e12d", "bart_12e2d"):
            name = f"{file}, {vocabulary // 1000}k"
            cases.append(Case(name, file, "full", vocabulary, batch))
            if file.startswith("bart"):
                case = Case(f"{name}, frozen", file, "full", vocabulary, batch, True, _UNTIED)
                cases.append(case)
    return cases


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process is told to measure.

    Attributes:
      program: one of `programs.PROGRAMS`.
      model: all fields of the model's configuration.
      batch: examples.
      length: positions of an example.
      frozen: see `Case`.
      warmup: updates before the measured ones; the first compiles.
      steps: updates to measure.
    """

    program: str
    model: dict[str, Any]
    batch: int
    length: int
    frozen: bool
    warmup: int
    steps: int

    @property
    def tokens(self) -> int:
        """Positions of the original sequences in a batch."""
        return self.batch * self.length

    @property
    def seq2seq(self) -> bool:
        """Whether there is a decoder."""
        return self.model["decoder_layers"] > 0

    @property
    def features(self) -> dict[str, int]:
        """{feature: length} of a batch."""
        if self.seq2seq:
            names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
            return dict.fromkeys(names, self.length)
        masked = math.ceil(_RATE * (self.length - 2))
        return {
            "encoder_input_tokens": self.length,
            "masked_positions": masked,
            "masked_targets": masked,
        }

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def synthetic(job: Job) -> dict[str, np.ndarray]:
    """A batch of random tokens: {feature: int32 [batch, length of the feature]}.

    15% of an example's tokens, its two ends aside, are masked. Sequences are full, but for MLM the
    first of each eight examples ends after three quarters.
    """
    rng = np.random.default_rng(0)
    mask = job.model["vocab_size"] - 1
    tokens = rng.integers(FIRST, mask, (job.batch, job.length), dtype=np.int32)
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    if job.seq2seq:
        source = tokens.copy()
        source[:, 1:-1][rng.random((job.batch, job.length - 2)) < _RATE] = mask
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": np.roll(tokens, 1, axis=1),
            "decoder_target_tokens": tokens,
        }
    count = job.features["masked_positions"]
    positions = np.zeros((job.batch, count), np.int32)
    targets = np.full((job.batch, count), PAD, np.int32)
    for row in range(job.batch):
        length = job.length if row % 8 else job.length * 3 // 4
        tokens[row, length - 1] = EOS
        tokens[row, length:] = PAD
        chosen = np.sort(1 + rng.permutation(length - 2)[: math.ceil(_RATE * (length - 2))])
        positions[row, : chosen.size] = chosen
        targets[row, : chosen.size] = tokens[row, chosen]
        tokens[row, chosen] = mask
    return {
        "encoder_input_tokens": tokens,
        "masked_positions": positions,
        "masked_targets": targets,
    }
