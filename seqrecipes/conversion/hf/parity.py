"""Parity: whether a folder of Hugging Face's format computes, in transformers, what our model does.

Logits (or hidden states, where there is no head), the bytes of every tensor, the tokenizer's ids
and what is generated. transformers and torch are imported when `verify` is called, not before.

Letters: T positions, S source length, V vocabulary, W what is compared (V or the hidden size).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seqrecipes import models
from seqrecipes.conversion.hf import normaliser
from seqrecipes.conversion.hf.files import Weights
from seqrecipes.conversion.hf.parity_report import (
    ABSOLUTE,
    Comparison,
    Generated,
    Parity,
    Tokenized,
)
from seqrecipes.conversion.hf.stand_in import WIDTH, Ours, compare_generation, pad
from seqrecipes.data import pieces
from seqrecipes.errors import UserError

_BOS, _EOS = 0, 2
_ROWS = 64  # positions whose logits exist at a time
_TABLE_ROWS = 4096
_LINES = 2  # of each language, whose logits are compared
_SENTENCES = 3
_SENTENCE = 32  # positions of a source to generate from

# What their classes have or files hold beside the model proper.
_ASIDE = re.compile(r"(.*\.)?pooler\..*|.*\.position_ids")


@dataclasses.dataclass(frozen=True)
class _Example:
    """Token ids [S] of a source and, for an encoder-decoder, [T] of what its decoder reads."""

    source: np.ndarray
    target: np.ndarray | None


def libraries() -> tuple[Any, Any]:
    """torch and transformers.

    Raises:
      UserError: one of them is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            "--verify", True, f"needs {error.name}: pip install 'seqrecipes[hf]'"
        ) from error
    return torch, transformers


def verify(
    folder: pathlib.Path,
    model: models.Model,
    params: Mapping[str, Any],
    *,
    vocabulary: bytes | None,
    texts: Mapping[str, Sequence[str]],
    trust: bool,
) -> Parity:
    """Compares a folder with our model, both in float32.

    Args:
      folder: an export, or what was imported.
      model: ours; compared without dropout, whatever its compute type.
      params: nested dictionary of its parameters.
      vocabulary: the SentencePiece model; None compares random tokens alone.
      texts: {language: texts}, taken line by line.
      trust: whether code in the folder may run.

    Raises:
      UserError: torch or transformers is missing, or transformers cannot open the folder.
    """
    torch, transformers = libraries()
    with _quiet(transformers), torch.inference_mode(), jax.default_matmul_precision("highest"):
        theirs = _open(folder, transformers, torch, trust)
        checksums, problems = _compare_weights(folder, theirs)
        problems += _compare_tables(torch, theirs, params["token_embedding"]["embedding"])
        ours = Ours(model, params, theirs)
        processor = pieces.parse(vocabulary, pieces.MODEL_NAME).tokenizer if vocabulary else None
        lines = {
            language: [line for text in given for line in text.splitlines() if line.strip()]
            for language, given in texts.items()
        }
        examples = _examples(ours, theirs, processor, lines)
        compute = functools.partial(_their_values, torch, theirs, ours.config.pad_id)
        generated: tuple[Generated, ...] = ()
        if ours.seq2seq and not ours.headless:
            chosen = [each.source[:_SENTENCE] for each in _first(examples)]
            generated = tuple(compare_generation(torch, transformers, theirs, ours, chosen))
        tokenizer = None
        if processor is not None and (folder / "tokenizer.json").is_file():
            fast = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust
            )
            tokenizer = _compare_tokenizer(fast, processor, lines)
        return Parity(
            model_class=type(theirs).__name__,
            versions={"transformers": transformers.__version__, "torch": torch.__version__},
            compared="hidden states" if ours.headless else "logits",
            comparisons=tuple(
                _compare(name, each, ours, compute) for name, each in examples.items()
            ),
            tokenizer=tokenizer,
            generated=generated,
            checksums=checksums,
            problems=tuple(problems),
        )


def _first(examples: Mapping[str, Sequence[_Example]]) -> list[_Example]:
    """The first sentences of text in as many languages, or else random tokens."""
    texts = [each[0] for name, each in examples.items() if name.startswith("text")]
    return (texts or list(examples["random tokens"]))[:_SENTENCES]


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' warnings and bars: what matters is compared."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _open(folder: pathlib.Path, transformers: Any, torch: Any, trust: bool) -> Any:
    """The folder's model, by the class that its configuration names."""
    try:
        values = json.loads((folder / "config.json").read_text("utf-8"))
        name = (values.get("architectures") or ["Model"])[0]
        if name.endswith("ForMaskedLM"):
            auto = transformers.AutoModelForMaskedLM
        elif name.endswith("ForConditionalGeneration"):
            auto = transformers.AutoModelForSeq2SeqLM
        elif name.endswith("ForSequenceClassification"):
            auto = transformers.AutoModelForSequenceClassification
        elif name.endswith("ForTokenClassification"):
            auto = transformers.AutoModelForTokenClassification
        else:
            auto = transformers.AutoModel
        return auto.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=trust,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            "--verify", str(folder), f"transformers does not open it: {reason}"
        ) from error


def _compare_weights(
    folder: pathlib.Path, theirs: Any
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Checksums of the files' tensors, and where transformers holds anything else."""
    weights, state, base = Weights(folder), theirs.state_dict(), theirs.base_model_prefix
    checksums, problems, held = {}, [], set()
    for name, shape in weights.shapes.items():
        array = np.ascontiguousarray(weights.read(name), "<f4")
        checksums[name] = {
            "shape": list(shape),
            "sha256": hashlib.sha256(array.data).hexdigest(),
        }
        for key in (name, f"{base}.{name}", name.removeprefix(f"{base}.")):
            if key in state:
                held.add(state[key].data_ptr())
                # As integers, so that a NaN equals itself.
                if not np.array_equal(state[key].numpy().view(np.int32), array.view(np.int32)):
                    problems.append(f"{key} has other values in transformers than in the files")
                break
        else:
            if not _ASIDE.fullmatch(name):
                problems.append(f"{name} of the files is not read by transformers")
    problems += [
        f"{key} is not in the files, so that transformers makes it up"
        for key, tensor in state.items()
        if tensor.data_ptr() not in held and not _ASIDE.fullmatch(key) and tensor.any()
    ]
    head = theirs.get_output_embeddings()
    if head is not None:
        alike = head.weight is theirs.get_input_embeddings().weight
        if alike != theirs.config.tie_word_embeddings:
            problems.append(
                f"config.json has tie_word_embeddings {theirs.config.tie_word_embeddings}, but the "
                f"files hold {'one table' if alike else 'two tables'} for input and head"
            )
    return checksums, problems


def _compare_tables(torch: Any, theirs: Any, table: Any) -> Iterator[str]:
    """Every row of the token table, of which the examples read but some."""
    rows_there = theirs.get_input_embeddings().num_embeddings
    count = min(len(table), rows_there)
    for name, module in theirs.named_modules():
        if not isinstance(module, torch.nn.Embedding) or "position" in name:
            continue
        if module.num_embeddings != rows_there:
            continue  # token types
        for start in range(0, count, _TABLE_ROWS):
            rows = torch.arange(start, min(start + _TABLE_ROWS, count))
            mine = np.asarray(table[start : start + len(rows)])
            difference = np.abs(module(rows).numpy() - mine).max()
            if not difference <= ABSOLUTE:
                yield f"{name} differs by {difference:.1e} in the rows from {start:,} on"
                break


def _read(processor: Any, line: str, longest: int) -> np.ndarray:
    """Ids of a line with their frame, cut where they are too many."""
    return np.array([_BOS, *processor.EncodeAsIds(line)[: longest - 2], _EOS], np.int32)


def _random(ours: Ours, theirs: Any, length: int, rng: np.random.Generator) -> np.ndarray:
    """Ids that both sides have, none of them padding."""
    rows = theirs.get_input_embeddings().num_embeddings
    ids = rng.integers(0, min(ours.config.vocab_size, rows), length)
    return np.where(ids == ours.config.pad_id, _EOS, ids).astype(np.int32)


def _examples(
    ours: Ours, theirs: Any, processor: Any, lines: Mapping[str, Sequence[str]]
) -> dict[str, list[_Example]]:
    """Random tokens, then text of every language."""
    longest = ours.config.max_positions
    lengths = [longest, *(min(longest, each) for each in (WIDTH // 3, 2))]
    rng = np.random.default_rng(0)
    pairs = [
        tuple(_random(ours, theirs, length, rng) for length in pair)
        for pair in zip(lengths, reversed(lengths), strict=True)
    ]
    examples = {"random tokens": [_Example(a, b if ours.seq2seq else None) for a, b in pairs]}
    if processor is not None:
        for language, given in lines.items():
            read = [_read(processor, line, min(longest, WIDTH)) for line in given[:_LINES]]
            examples[f"text: {language}"] = [
                # The decoder is given what it shall say, one position later.
                _Example(ids, np.roll(ids, 1) if ours.seq2seq else None)
                for ids in read
            ]
    return {name: each for name, each in examples.items() if each}


def _compare(
    name: str,
    examples: Sequence[_Example],
    ours: Ours,
    their_values: Callable[[np.ndarray, np.ndarray | None], np.ndarray],
) -> Comparison:
    """Largest differences, at real positions and over the columns that both have."""
    positions, absolute, largest = 0, np.float32(0), np.float32(0)
    for example in examples:
        source = pad([example.source], ours.config)
        target = None if example.target is None else pad([example.target], ours.config)
        length = len(example.source if example.target is None else example.target)
        theirs_SxW = their_values(source, target)[:length]
        states = ours.states(source, target)
        for start in range(0, len(theirs_SxW), _ROWS):
            mine = ours.values(states, start, min(_ROWS, states.shape[1] - start))[0]
            other = theirs_SxW[start : start + _ROWS]
            width = min(mine.shape[1], other.shape[1])
            mine, other = mine[: len(other), :width], other[:, :width]
            # Not Python's max, which would lose a NaN.
            absolute = np.maximum(absolute, np.abs(mine - other).max())
            largest = np.maximum(largest, np.abs(other).max())
        positions += len(theirs_SxW)
    return Comparison(name, positions, float(absolute), float(absolute / (largest or 1)))


def _their_values(
    torch: Any, theirs: Any, pad_id: int, source: np.ndarray, target: np.ndarray | None
) -> np.ndarray:
    """Logits, or hidden states of a model without a head, of the one example: [T, W].

    Of a labeller the logits of all heads side by side; T is 1 where all read <s>.
    """
    ids = torch.from_numpy(source).long()
    arguments = {"input_ids": ids, "attention_mask": (ids != pad_id).long()}
    if target is not None:
        arguments |= {"decoder_input_ids": torch.from_numpy(target).long(), "use_cache": False}
    output = theirs(**arguments)
    if "last_hidden_state" in output:
        return output["last_hidden_state"][0].numpy()
    logits = [
        np.atleast_2d(output[name][0].numpy())
        for name in ("logits", "label_logits", "word_logits")
        if name in output
    ]
    length = max(map(len, logits))
    return np.concatenate(
        [np.broadcast_to(each, (length, each.shape[1])) for each in logits], axis=1
    )


def _compare_tokenizer(
    tokenizer: Any, processor: Any, lines: Mapping[str, Sequence[str]]
) -> Tokenized:
    """The folder's tokenizer against SentencePiece, on every spelling of the lines."""
    counts = [0, 0, 0, 0]
    given = itertools.chain.from_iterable(lines.values())
    for line in itertools.chain.from_iterable(map(normaliser.spellings, given)):
        ids, theirs = processor.EncodeAsIds(line), tokenizer.encode(line, add_special_tokens=False)
        counts[0] += 1
        counts[1] += ids != theirs
        counts[2] += len(ids)
        counts[3] += _differing(ids, theirs)
    return Tokenized(*counts)


def _differing(ids: Sequence[int], others: Sequence[int]) -> int:
    """How many ids lie between what two sequences begin and end with alike."""
    if ids == others:
        return 0
    shorter = min(len(ids), len(others))
    start = next((i for i in range(shorter) if ids[i] != others[i]), shorter)
    rest = shorter - start
    end = next((i for i in range(rest) if ids[-1 - i] != others[-1 - i]), rest)
    return max(len(ids), len(others)) - start - end
