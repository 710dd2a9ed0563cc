"""Texts, models and tokenizers that the tests of exporting and importing vocabularies share."""

from __future__ import annotations

import io

import sentencepiece
import tokenizers

from seqrecipes.data.corpora.corpus import texts
from seqrecipes.data.corpora.sample import SampleCorpus

LAYOUT = {"bos_id": 0, "pad_id": 1, "eos_id": 2, "unk_id": 3}
ODD = [
    *("", " ", "   ", "\t", "a\tb\n c", " \n a", "  two  spaces   here ", "x" * 300, "\ufeffx"),
    *("😀 and 👩‍👩‍👧 end", "\x01\x02", "a\x00b", "e\u0301 n\u0303", "ꙮ ☃☃ ☃", "क्‍ष", "\u200d", "ﬁ½"),
    *(
        "ｆｕｌｌ　ｗｉｄｔｈ ～",
        "▁",
        "▁a",
        "a▁",
        "a ▁ b",
        "<0x41>",
        "⁇",
        "مُحَمَّد",
        "\u0085x\u0085",
        "한글",
    ),
    *("می\u200cروم", "పార్క్\u200cలో a\u200cb", "\u200c", "a\u200c b", "\u200ca", "तर्\u200dहेने"),
    *("[DOC", "<mask", "<s >", "/s>", "sentinel_0>"),
]
LITERAL = [
    "a <mask> b<s>c </s> [DOC] <pad>",
    "<sentinel_1><unk>",
    "<<s>> <0x41><0x42>",
]


def sample_lines() -> list[str]:
    """A few hundred lines in twelve languages."""
    corpus = SampleCorpus()
    return [
        line
        for language in corpus.languages
        for text in texts(corpus, language, "train")
        for line in text.splitlines()
    ]


def train(lines, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        **{"vocab_size": 1400, "minloglevel": 2, "character_coverage": 0.999} | options,
    )
    return model.getvalue()


def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def tokenizer_of(folder):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids
