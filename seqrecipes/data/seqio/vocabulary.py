"""Our vocabulary as seqio's."""

from __future__ import annotations

import sentencepiece
import seqio

from seqrecipes.data.vocabulary import Vocabulary


class SeqioVocabulary(seqio.SentencePieceVocabulary):
    """A vocabulary whose file is read when first needed, in our layout of ids."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__("")
        self.vocabulary = vocabulary

    @property
    def sentencepiece_model_file(self) -> str:
        """The path of the model file."""
        return self.vocabulary.path

    @property
    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """The SentencePiece processor."""
        return self.vocabulary.tokenizer

    @property
    def sp_model(self) -> bytes:
        """The serialised model."""
        return self.vocabulary.sp_model

    @property
    def pad_id(self) -> int:
        """Id of <pad>."""
        return self.vocabulary.pad_id
