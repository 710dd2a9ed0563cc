"""Trains a vocabulary on a corpus: `python -m seqrecipes.train_vocabulary --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, get_args

from seqrecipes import configuration, corpus_flags
from seqrecipes.config import flags as flags_of
from seqrecipes.config.check import Range
from seqrecipes.config.vocabulary import Normalization
from seqrecipes.errors import exit_status
from seqrecipes.folders import check_writable

if TYPE_CHECKING:
    from seqrecipes.data.corpora.corpus import Corpus
    from seqrecipes.data.vocabulary import Vocabulary


def _parser() -> argparse.ArgumentParser:
    parser = flags_of.Parser(
        "train_vocabulary",
        description="Trains a SentencePiece vocabulary with the layout that pre-training needs.",
        epilog="Example: python -m seqrecipes.train_vocabulary --corpus=text "
        "--files 'en=texts/en/*.txt.gz' --files de=texts/de --size=16000 --output=vocabularies/16k",
    )
    parser.add_argument(
        "--corpus",
        type=flags_of.name,
        default="sample",
        help="a corpus of the task module (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=flags_of.value(Annotated[int, Range(16)]),
        required=True,
        help="ids, special ones included",
    )
    parser.add_argument(
        "--output", type=flags_of.name, required=True, metavar="DIR", help="folder for spm.model"
    )
    parser.add_argument(
        "--alpha",
        type=flags_of.value(flags_of.Share),
        default=0.3,
        help="smoothing of language proportions, 0 (equal) to 1 (natural); default %(default)s",
    )
    parser.add_argument(
        "--max_sentences",
        type=flags_of.value(flags_of.Positive),
        default=2_000_000,
        help="train on about so many documents at most (default: %(default)s)",
    )
    parser.add_argument(
        "--normalization",
        choices=get_args(Normalization),
        default="nmt_nfkc_joiners",
        help="what is done to text before it is cut into pieces: SentencePiece's rules, or its "
        "nmt_nfkc with ZWNJ and ZWJ kept inside of words (default: %(default)s)",
    )
    parser.add_argument(
        "--character_coverage",
        type=flags_of.value(Annotated[float, Range(0.98, 1)]),
        default=0.9995,
        help="share of characters with a piece of their own (default: %(default)s)",
    )
    parser.add_argument(
        "--byte_fallback", action="store_true", help="spell unknown characters as bytes"
    )
    parser.add_argument(
        "--sentinels",
        type=flags_of.value(flags_of.Count),
        default=0,
        help="span separators at the end; span corruption needs about 100 (default: %(default)s)",
    )
    corpus_flags.add_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, 2 for what the user can mend."""
    flags, bindings = configuration.parse_flags(_parser(), argv)
    return exit_status(lambda: _run(flags, bindings))


def _run(flags: argparse.Namespace, bindings: list[str]) -> None:
    check_writable(flags.output, "--output")
    corpus_flags.configure(flags, flags.corpus, bindings)
    corpus = corpus_flags.get_corpus(flags.corpus)
    from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary

    path = train_vocabulary(
        sample_texts(corpus, flags.alpha, flags.max_sentences),
        flags.size,
        flags.output,
        normalization=flags.normalization,
        character_coverage=flags.character_coverage,
        byte_fallback=flags.byte_fallback,
        sentinels=flags.sentinels,
    )
    print(_table(corpus, Vocabulary(str(path))))
    print(f"\nwrote {path} ({flags.size} ids)")


def _table(corpus: Corpus, vocabulary: Vocabulary) -> str:
    """How the vocabulary fits each language of the training split."""
    from seqrecipes.data.corpora.corpus import batches, texts

    rows = [f"{'language':<10}{'documents':>11}{'tokens':>13}{'unknown':>10}{'chars/token':>13}"]
    for language in corpus.languages:
        documents = tokens = unknown = characters = 0
        for batch in batches(texts(corpus, language, "train")):
            ids = [i for encoded in vocabulary.tokenizer.encode(batch) for i in encoded]
            documents, tokens = documents + len(batch), tokens + len(ids)
            unknown += ids.count(vocabulary.specials.unk)
            characters += sum(map(len, batch))
        rows.append(
            f"{language:<10}{documents:>11,}{tokens:>13,}{unknown / max(tokens, 1):>10.3%}"
            f"{characters / max(tokens, 1):>13.2f}"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
