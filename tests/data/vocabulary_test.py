"""The vocabulary's layout, training and refusals."""

from __future__ import annotations

import pytest
import sentencepiece

from seqrecipes.data.corpora import SampleCorpus
from seqrecipes.data.objectives import Specials
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, split_text, train_vocabulary
from seqrecipes.errors import UserError

WORDS = ["the", "river", "rises", "every", "spring", "when", "snow", "melts", "in", "mountains"]


def texts(count=300):
    return (" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 9)) for i in range(count))


def test_layout(vocabulary, vocabulary_path):
    assert vocabulary.specials == Specials(0, 1, 2, 3, mask=1998, doc=1999, vocab_size=2000)
    assert (vocabulary.bos_id, vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (
        0,
        1,
        2,
        3,
    )
    assert (vocabulary.mask_id, vocabulary.doc_id) == (1998, 1999)
    assert vocabulary.size == vocabulary.vocab_size == 2000
    model = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary_path))
    ids = [0, 1, 2, 3, 1998, 1999]
    assert model.id_to_piece(ids) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[DOC]"]
    assert [model.is_control(i) for i in ids] == [True, True, True, False, True, True]


def test_round_trip(vocabulary):
    text = "The river rises every spring when the snow melts."
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode_tf(text).numpy().tolist() == vocabulary.encode(text)


def test_special_tokens_in_text_stay_text(vocabulary):
    ids = vocabulary.encode("a <mask> b [DOC] c <s> d </s> e <pad>")
    assert not set(ids) & {0, 1, 2, 1998, 1999}


def test_training_is_deterministic(tmp_path):
    paths = [train_vocabulary(texts(), 30, tmp_path / name) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["spm.model"]
    assert Vocabulary(str(paths[0])).checksum == Vocabulary(str(paths[1])).checksum


def test_byte_fallback_leaves_nothing_unknown(tmp_path):
    path = train_vocabulary(texts(), 286, tmp_path, byte_fallback=True)
    assert 3 not in Vocabulary(str(path)).encode("Привет")
    path = train_vocabulary(texts(), 30, tmp_path / "plain")
    assert 3 in Vocabulary(str(path)).encode("Привет")


def test_sizes_that_do_not_fit_are_refused_with_the_limit(tmp_path):
    with pytest.raises(
        UserError, match=r"vocabulary size = 5000: too large .* the most is (\d+)"
    ) as error:
        train_vocabulary(texts(), 5000, tmp_path)
    largest = int(str(error.value).rstrip(".").split()[-1])
    with pytest.raises(
        UserError, match=r"vocabulary size = 10: too small .* choose (\d+) or more"
    ) as error:
        train_vocabulary(texts(), 10, tmp_path)
    smallest = int(str(error.value).split("choose ")[1].split()[0])
    for name, size in (("largest", largest), ("smallest", smallest)):
        assert Vocabulary(str(train_vocabulary(texts(), size, tmp_path / name))).size == size
    with pytest.raises(UserError):
        train_vocabulary(texts(), largest + 1, tmp_path)
    assert not (tmp_path / "spm.model").exists()


def test_no_text_and_an_existing_vocabulary_are_refused(tmp_path):
    with pytest.raises(UserError, match="no text to train on"):
        train_vocabulary(iter(["", " "]), 30, tmp_path)
    train_vocabulary(texts(), 30, tmp_path)
    with pytest.raises(UserError, match=r"has a spm\.model; choose another folder"):
        train_vocabulary(texts(), 30, tmp_path)


def test_unusable_files_are_refused_at_first_use(tmp_path):
    (tmp_path / "text.model").write_text("not a model")
    prefix = tmp_path / "other"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts(), model_prefix=str(prefix), vocab_size=30, minloglevel=2
    )
    for name, problem in (
        ("missing.model", "cannot be read"),
        ("text.model", "not a SentencePiece model"),
        ("other.model", "lacks the layout"),
    ):
        vocabulary = Vocabulary(str(tmp_path / name))
        with pytest.raises(UserError, match=problem) as error:
            _ = vocabulary.size
        assert "python -m seqrecipes.train_vocabulary" in str(error.value)
        assert str(error.value).startswith("vocabulary = ")


def test_a_path_may_be_given_later(vocabulary_path):
    paths: list[str] = []
    vocabulary = Vocabulary(lambda: paths[0])
    paths.append(str(vocabulary_path))
    assert vocabulary.size == 2000


def test_split_text():
    assert list(split_text("aa bb cc", 5)) == ["aa bb", "cc"]
    assert list(split_text("aaaaaaa b", 3)) == ["aaa", "aaa", "a b"]
    assert list(split_text("日本語", 7)) == ["日本", "語"]
    assert list(split_text(" \n ")) == []
    long = "wörter und sätze " * 3000
    pieces = list(split_text(long))
    assert max(len(piece.encode()) for piece in pieces) <= 4000
    assert " ".join(pieces) == long.strip()


class TwoLanguages:
    languages = ("big", "small")

    def documents(self, language, split):
        assert split == "train"
        for i in range(1000 if language == "big" else 10):
            yield f"{language}{i:03}"[
                -5:
            ]  # equal lengths, so shares of documents are of characters

    def fingerprint(self):
        return ""


@pytest.mark.parametrize("alpha, share", [(1.0, 10 / 1010), (0.5, 1 / 11), (0.0, 1 / 2)])
def test_sampling_smooths_languages(alpha, share):
    sample = list(sample_texts(TwoLanguages(), alpha))
    small = sum(text.startswith("ll") for text in sample)
    assert abs(len(sample) - 1010) <= 2
    assert abs(small / len(sample) - share) < 0.002


def test_sampling_is_capped_and_repeatable():
    sample = list(sample_texts(SampleCorpus(), 0.3, max_sentences=60))
    assert 50 <= len(sample) <= 60
    assert sample == list(sample_texts(SampleCorpus(), 0.3, max_sentences=60))
