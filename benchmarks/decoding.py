"""Tokens per second of greedy and beam search, beside transformers' `generate`: see --help.

Both read the same exported weights, each in fresh processes that take turns. The weights are
random, but for a </s> that is never likely: every text is as long as it may be, on both sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.decoding_worker import OURS, PROGRAMS, Job
from benchmarks.step import rounds
from seqrecipes import markdown
from seqrecipes.errors import UserError, one_line

_LIBRARIES = ("jax", "flax", "torch", "transformers", "numpy")
_HEADER = ("beams", "program", "tokens/s", "s a batch (least-most)", "first, s", "ours/this")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoding",
        description="Measures greedy and beam search of a random model on one device, and "
        "transformers' generate with the same weights.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", default="configs/bart_12e12d.py", help="a seq2seq one")
    parser.add_argument("--size", default="mini", help="of the model")
    parser.add_argument("--vocab_size", type=int, default=32_000, help="pieces")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5], help="1 is greedy")
    parser.add_argument("--batch", type=int, default=16, help="sources at a time")
    parser.add_argument("--source", type=int, default=128, help="tokens of a source")
    parser.add_argument("--max_length", type=int, default=127, help="tokens of a text")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each program")
    parser.add_argument("--repetitions", type=int, default=3, help="measured batches of each")
    parser.add_argument(
        "--allocator", choices=rounds.ALLOCATORS, default="keep", help="of all processes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures here")
    return parser


def write_model(folder: Path, flags: argparse.Namespace) -> None:
    """An export with random weights whose texts do not end, and whose logits are far apart."""
    import jax
    import numpy as np
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    from seqrecipes import models, tree
    from seqrecipes.conversion.hf.export import export
    from seqrecipes.conversion.hf.unigram import add_specials
    from seqrecipes.data import pieces
    from seqrecipes.models import config as model_config

    config = model_config.load(flags.model, size=flags.size, vocab_size=flags.vocab_size)
    if not config.decoder_layers:
        raise UserError("--model", flags.model, "has no decoder to write with")
    vocabulary = ModelProto()
    add_specials(vocabulary, pieces.FIRST_PIECES)
    vocabulary.pieces[3].type = ModelProto.SentencePiece.UNKNOWN
    ordinary = flags.vocab_size - len(pieces.FIRST_PIECES) - len(pieces.last_pieces(0))
    for number in range(ordinary):
        vocabulary.pieces.add(piece=f"▁{number}", score=-float(number))
    params = tree.flatten(jax.jit(lambda: models.init_params(config, 0))())
    leaves = {path: np.array(leaf) for path, leaf in params.items()}
    head = leaves["token_embedding/embedding" if config.tie_head else "lm_head/embedding"]
    head *= 20
    # Normalised states sum to 0: with a bias the sum is the same for all.
    last = "final_norm" if config.norm == "pre" else "layers/mlp_norm"
    leaves[f"decoder/stack/{last}/bias"] += 1.0
    head -= head.mean(axis=1, keepdims=True)
    head[2] = -1.0
    export(folder, config, leaves.__getitem__, vocabulary=pieces.complete(vocabulary, 0))


def _measure(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every program and number of beams."""
    for flag in ("batch", "source", "rounds", "repetitions"):
        if getattr(flags, flag) < 1:
            raise UserError(f"--{flag}", getattr(flags, flag), "must be at least 1")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), flags)
        for beams in flags.beams:
            found: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
            for turn in range(flags.rounds):
                for program in PROGRAMS:
                    job = Job(
                        program,
                        folder,
                        beams,
                        flags.batch,
                        flags.source,
                        flags.max_length,
                        flags.repetitions,
                        flags.dtype,
                    )
                    argument = json.dumps(dataclasses.asdict(job))
                    result = rounds.worker(argument, flags.allocator, "benchmarks.decoding_worker")
                    found[program].append(result)
                    rate = result["tokens"] / statistics.median(result["seconds"])
                    print(
                        f"{beams} beams, {program}, round {turn + 1} of {flags.rounds}: "
                        f"{rate:,.0f} tokens/s",
                        file=sys.stderr,
                        flush=True,
                    )
            rows += [_row(beams, program, found) for program in PROGRAMS]
    return rows


def _row(beams: int, program: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    each = found[program]
    seconds = [time for result in each for time in result["seconds"]]
    ours = [text for result in found[OURS][:1] for text in result["texts"]]
    return {
        "beams": beams,
        "program": program,
        "device": each[0]["device"],
        "tokens": each[0]["tokens"],
        "seconds": seconds,
        "rate": each[0]["tokens"] / statistics.median(seconds),
        "first": statistics.median(result["first"] for result in each),
        "texts": len(ours),
        "alike": sum(a == b for a, b in zip(ours, each[0]["texts"], strict=True)),
    }


def report(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """Everything, for a terminal."""
    rates = {row["beams"]: row["rate"] for row in rows if row["program"] == OURS}
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v)
    cells = [
        [
            str(row["beams"]),
            row["program"],
            f"{row['rate']:,.0f}",
            f"{statistics.median(row['seconds']):.2f} "
            f"({min(row['seconds']):.2f}-{max(row['seconds']):.2f})",
            f"{row['first']:.1f}",
            "" if row["program"] == OURS else f"{rates[row['beams']] / row['rate']:.2f}x",
        ]
        for row in rows
    ]
    alike = [
        f"{row['beams']} beams: {row['alike']} of {row['texts']} texts alike"
        for row in rows
        if row["program"] != OURS
    ]
    return "\n".join(
        [
            f"{about['processor']}, {about['cores']} cores; {rows[0]['device']}; "
            f"Python {about['python']}, {versions}",
            "tokens of the best text of each source; medians of all batches after each process's "
            "first, which is in its own column with what came before it",
            "",
            markdown.table(_HEADER, cells),
            "",
            *alike,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    flags = _parser().parse_args(arguments)
    try:
        rows = _measure(flags)
    except UserError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except rounds.Failed as error:
        print(f"error: a program failed: {error}", file=sys.stderr)
        return 1
    about = machine.describe(None, _LIBRARIES)
    print(report(rows, about))
    if flags.json:
        settings = {name: value for name, value in vars(flags).items() if name != "json"}
        everything = {"machine": about, "settings": settings, "rows": rows}
        flags.json.write_text(json.dumps(everything, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
