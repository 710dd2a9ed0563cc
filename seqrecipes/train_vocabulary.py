"""Trains a vocabulary on a corpus: `python -m seqrecipes.train_vocabulary --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqrecipes.errors import UserError, one_line

if TYPE_CHECKING:
    from seqrecipes.data.corpora import Corpus
    from seqrecipes.data.vocabulary import Vocabulary

_TABLE_BATCH = 1000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m seqrecipes.train_vocabulary",
        description="Trains a SentencePiece vocabulary with the layout that pre-training needs.",
        epilog="Example: python -m seqrecipes.train_vocabulary --corpus=text "
        "--files 'en=texts/en/*.txt.gz' --files de=texts/de --size=16000 --output=vocabularies/16k",
    )
    parser.add_argument("--corpus", choices=("sample", "text"), default="sample")
    parser.add_argument(
        "--files",
        action="append",
        default=[],
        metavar="LANGUAGE=GLOB",
        help="files of a language for --corpus=text: a folder or a glob; may be repeated",
    )
    parser.add_argument(
        "--document",
        choices=("line", "blank_line"),
        default="line",
        help="what a document is in .txt files (default: %(default)s)",
    )
    parser.add_argument("--size", type=int, required=True, help="ids, special ones included")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for spm.model")
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.3,
        help="smoothing of language proportions, 0 (equal) to 1 (natural); default %(default)s",
    )
    parser.add_argument(
        "--max_sentences",
        type=int,
        default=2_000_000,
        help="train on about so many documents at most (default: %(default)s)",
    )
    parser.add_argument(
        "--character_coverage",
        type=float,
        default=0.9995,
        help="share of characters with a piece of their own (default: %(default)s)",
    )
    parser.add_argument(
        "--byte_fallback", action="store_true", help="spell unknown characters as bytes"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except UserError as error:
        # gin appends lines of its own to what its configurables raise.
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    corpus = _corpus(options)
    # Imported late: these bring TensorFlow, and wrong arguments should be told at once.
    from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary

    path = train_vocabulary(
        sample_texts(corpus, options.alpha, options.max_sentences),
        options.size,
        options.output,
        character_coverage=options.character_coverage,
        byte_fallback=options.byte_fallback,
    )
    print(_table(corpus, Vocabulary(str(path))))
    print(f"\nwrote {path} ({options.size} ids)")


def _corpus(options: argparse.Namespace) -> Corpus:
    from seqrecipes.data.corpora import SampleCorpus, TextFiles

    if options.corpus == "sample":
        if options.files:
            raise UserError("--files", options.files, "needs --corpus=text.")
        return SampleCorpus()
    files: dict[str, list[str]] = {}
    for item in options.files:
        language, separator, pattern = item.partition("=")
        if not (language and separator and pattern):
            raise UserError("--files", item, "write it as LANGUAGE=GLOB, such as en=texts/en.")
        files.setdefault(language, []).append(pattern)
    if not files:
        raise UserError("--files", None, "--corpus=text needs files, such as --files en=texts/en.")
    return TextFiles(files=files, document=options.document)


def _table(corpus: Corpus, vocabulary: Vocabulary) -> str:
    """How the vocabulary fits each language of the training split."""
    rows = [f"{'language':<10}{'documents':>11}{'tokens':>13}{'unknown':>10}{'chars/token':>13}"]
    for language in corpus.languages:
        documents = tokens = unknown = characters = 0
        batch: list[str] = []

        def count(texts: list[str]) -> tuple[int, int]:
            ids = [i for encoded in vocabulary.tokenizer.encode(texts) for i in encoded]
            return len(ids), ids.count(vocabulary.specials.unk)

        for text in corpus.documents(language, "train"):
            documents, characters = documents + 1, characters + len(text)
            batch.append(text)
            if len(batch) == _TABLE_BATCH:
                more, more_unknown = count(batch)
                tokens, unknown, batch = tokens + more, unknown + more_unknown, []
        more, more_unknown = count(batch)
        tokens, unknown = tokens + more, unknown + more_unknown
        rows.append(
            f"{language:<10}{documents:>11,}{tokens:>13,}{unknown / max(tokens, 1):>10.3%}"
            f"{characters / max(tokens, 1):>13.2f}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
