"""Writes a text for every line of a file with a sequence-to-sequence model.

`python -m seqrecipes.generate --checkpoint=runs/demo/2stage_bart_12e12d_unfrz < in.txt > out.txt`
takes a stage's folder, a checkpoint or a folder in Hugging Face's format. With --best a line comes
out as JSON: {"input": ..., "hypotheses": [{"text": ..., "score": ...}, ...]}, the best first.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status

if TYPE_CHECKING:
    from seqrecipes.downstream.writing import Cut, Hypothesis, Writer

# Batches whose lines are sorted by length together, and written out together.
_WINDOW = 32
_SHOWN = 10  # numbers of lines that were cut


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("generate", description=__doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=flags_of.path,
        metavar="DIR",
        help="a stage's folder, one of its checkpoints, or a folder in Hugging Face's format",
    )
    parser.add_argument(
        "--vocabulary",
        type=flags_of.name,
        metavar="FILE",
        help="the model's, where it is not beside it",
    )
    parser.add_argument(
        "--input",
        type=flags_of.name,
        default="-",
        metavar="FILE",
        help="one text a line; - is standard input, default",
    )
    parser.add_argument(
        "--output",
        type=flags_of.name,
        default="-",
        metavar="FILE",
        help="one text a line; - is standard output",
    )
    parser.add_argument(
        "--beams",
        type=flags_of.value(flags_of.Positive),
        metavar="N",
        help="1 is greedy search; default: as a fine-tuned model or the folder says, else 3",
    )
    parser.add_argument(
        "--max_length",
        type=flags_of.value(flags_of.Positive),
        metavar="N",
        help="tokens of a text at most; default: as those say, else the model's positions",
    )
    parser.add_argument(
        "--length_penalty",
        type=flags_of.value(float),
        metavar="P",
        help="log-probabilities are divided by length^P; default: as those say, else 1",
    )
    parser.add_argument(
        "--best",
        type=flags_of.value(flags_of.Positive),
        metavar="N",
        help="the N best of each line, as JSON",
    )
    parser.add_argument(
        "--batch_size",
        type=flags_of.value(flags_of.Positive),
        default=16,
        metavar="N",
        help="lines at a time: %(default)s",
    )
    flags = parser.parse_args(argv)
    return exit_status(lambda: _run(flags))


def _run(flags: argparse.Namespace) -> None:
    from tqdm import tqdm

    with _opened("--input", flags.input, "r") as source:
        try:
            # Not splitlines, which breaks lines where editors and wc do not.
            lines = [line.rstrip("\r\n") for line in source]
        except UnicodeDecodeError as error:
            raise UserError("--input", flags.input, f"is not UTF-8: {error}") from error
    writer = _writer(flags)
    window = _WINDOW * writer.batch_size
    with (
        _opened("--output", flags.output, "w") as output,
        tqdm(total=len(lines), desc="writing", unit="line", disable=None) as bar,
    ):
        cuts: list[Cut] = []
        for start in range(0, len(lines), window):
            chosen = lines[start : start + window]
            results, cut_here = writer.write(chosen, bar.update)
            cuts += [dataclasses.replace(cut, line=start + cut.line) for cut in cut_here]
            for line, hypotheses in zip(chosen, results, strict=True):
                print(_shown(line, hypotheses, flags.best), file=output)
            output.flush()
    if cuts:
        print(_cut(cuts, len(lines)), file=sys.stderr)


def _cut(cuts: Sequence[Cut], lines: int) -> str:
    """Which lines the model did not read whole."""
    numbers = [str(cut.line + 1) for cut in cuts[:_SHOWN]]
    if len(cuts) > _SHOWN:
        numbers.append(f"and {len(cuts) - _SHOWN:,} more")
    return (
        f"{len(cuts):,} of {lines:,} lines are longer than the {cuts[0].read:,} tokens that the "
        f"model reads and were cut there; the longest has {max(cut.tokens for cut in cuts):,}. "
        f"Lines: {', '.join(numbers)}"
    )


def _shown(line: str, hypotheses: Sequence[Hypothesis], best: int | None) -> str:
    if best is None:
        return hypotheses[0].text if hypotheses else ""
    values = {"input": line, "hypotheses": [each._asdict() for each in hypotheses]}
    return json.dumps(values, ensure_ascii=False)


@contextlib.contextmanager
def _opened(flag: str, name: str, mode: str) -> Iterator[IO[str]]:
    """A file, or a standard stream, of UTF-8 with \\n."""
    standard = sys.stdin if mode == "r" else sys.stdout
    where: Any = standard.fileno() if name == "-" else name
    try:
        with open(where, mode, encoding="utf-8", newline="\n", closefd=name != "-") as file:
            yield file
    except OSError as error:
        raise UserError(flag, name, error.strerror or str(error)) from error


def _writer(flags: argparse.Namespace) -> Writer:
    """The model, its vocabulary and the search that the flags ask for.

    Raises:
      UserError: there is no such model, it cannot write, or JAX is set to other arithmetic.
    """
    from seqrecipes import hugging_face, models
    from seqrecipes.config.finetuning import Search
    from seqrecipes.config.training import Partitioning
    from seqrecipes.conversion.hf import config as hf_config
    from seqrecipes.conversion.hf import generation, load
    from seqrecipes.conversion.hf.vocabulary import read_vocabulary
    from seqrecipes.data import pieces
    from seqrecipes.downstream.writing import Writer
    from seqrecipes.training import checkpoints, environment

    environment.check()
    folder, partitioning = flags.checkpoint, Partitioning()
    theirs = (folder / "config.json").is_file()
    if theirs:
        values = load.read_config(folder)
        config, settings = hf_config.from_hf(values), generation.read(folder, values)
    else:
        folder = checkpoints.find(folder, field="--checkpoint")
        metadata = checkpoints.read_metadata(folder)
        config = models.ModelConfig.from_dict(metadata["model"], field="--checkpoint")
        settings = metadata.get("generation", {})
        tuned = metadata.get("finetuning", {})
        if tuned.get("labels"):
            raise UserError(
                "--checkpoint",
                str(flags.checkpoint),
                "it labels texts; `evaluate` predicts with it",
            )
    if not config.decoder_layers:
        raise UserError(
            "--checkpoint",
            str(flags.checkpoint),
            "an encoder alone writes no text; name a seq2seq model",
        )
    if theirs and flags.vocabulary:
        data: bytes | None = pieces.load(flags.vocabulary).data
    elif theirs:
        data = read_vocabulary(folder).model
    else:
        data = hugging_face.find_vocabulary(folder, metadata, flags.vocabulary)
    if data is None:
        raise UserError(
            "--vocabulary", None, f"the tokenizer in {folder} has no SentencePiece form"
        )
    # Kernels are those of the devices here, wherever it was trained.
    config = dataclasses.replace(config, attention="auto", remat="none")
    vocabulary = pieces.parse(data, pieces.MODEL_NAME)
    writing = generation.writing(
        settings, pieces=vocabulary.tokenizer.GetPieceSize(), max_positions=config.max_positions
    )
    search = {"beams": 3} | writing.search
    if not theirs and tuned:
        search |= tuned["search"]
    search |= {
        name: getattr(flags, name)
        for name in ("beams", "max_length", "length_penalty", "best")
        if getattr(flags, name) is not None
    }
    placement = partitioning.placement()
    if theirs:
        params = load.load(folder, placement=placement).params
    else:
        params = checkpoints.restore_params(folder, models.parameter_shapes(config), placement)
    return Writer(
        models.build(config),
        params,
        vocabulary,
        Search(**search),
        fixed=writing.fixed,
        batch_size=flags.batch_size,
        partitioning=partitioning,
    )


if __name__ == "__main__":
    sys.exit(main())
