"""How SentencePiece normalises text before it looks for pieces: the rules a vocabulary may have.

The default, `nmt_nfkc_joiners`, is SentencePiece's own nmt_nfkc without its one rule that breaks
words: it would turn the zero-width non-joiner (ZWNJ, U+200C) into a space. Persian writes that
character inside of words, Telugu after a consonant that shall not join the next, and the zero-width
joiner (ZWJ, U+200D) is part of the spelling of Marathi and of emoji.
"""

from __future__ import annotations

import functools
from typing import get_args

import sentencepiece

from seqrecipes.config.check import choose
from seqrecipes.config.vocabulary import Normalization
from seqrecipes.errors import UserError

NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)
DEFAULT = NORMALIZATIONS[0]

_ZWNJ, _ZWJ = "\u200c", "\u200d"


@functools.lru_cache(maxsize=1)
def normalizer(name: str) -> sentencepiece.SentencePieceNormalizer:
    """What a vocabulary is trained with; spaces are treated as SentencePiece does by default.

    Making the default takes about a second, hence the cache.

    Raises:
      UserError: there is no such rule.
    """
    if name not in NORMALIZATIONS:
        raise UserError("normalization", name, choose(name, NORMALIZATIONS))
    sentencepiece.set_min_log_level(2)
    make = functools.partial(
        sentencepiece.SentencePieceNormalizer,
        add_dummy_prefix=True,
        escape_whitespaces=True,
        remove_extra_whitespaces=True,
    )
    if name != "nmt_nfkc_joiners":
        return make(rule_name=name)
    rules = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc").decompile()
    return make(norm_map=[(text, normal) for text, normal in rules if text != _ZWNJ])


def kept_joiners(name: str) -> str:
    """Those of ZWNJ and ZWJ that a rule leaves as they are; they are rare, and need pieces."""
    return "".join(c for c in (_ZWNJ, _ZWJ) if c in normalizer(name).normalize(f"a{c}a"))
