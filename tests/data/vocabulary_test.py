"""The vocabulary's layout, training and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.objectives.base import Specials
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, split_text, train_vocabulary
from seqrecipes.errors import UserError

WORDS = ["the", "river", "rises", "every", "spring", "when", "snow", "melts", "in", "mountains"]


def texts(count=300):
    return (" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 9)) for i in range(count))


def pieces_of(path):
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    controls = [model.is_control(i) for i in range(model.get_piece_size())]
    return model.id_to_piece(list(range(len(controls)))), controls


@pytest.mark.parametrize("sentinels", [0, 1, 12])
def test_layout(sentinels, tmp_path):
    path = train_vocabulary(texts(), 30 + sentinels, tmp_path, sentinels=sentinels)
    vocabulary = Vocabulary(str(path))
    assert vocabulary.specials == Specials(
        0, 1, 2, 3, mask=28, doc=29, vocab_size=30 + sentinels, sentinels=sentinels
    )
    assert (vocabulary.pad_id, vocabulary.mask_id, vocabulary.doc_id) == (1, 28, 29)
    assert vocabulary.size == 30 + sentinels
    assert vocabulary.sentinels == sentinels
    pieces, controls = pieces_of(path)
    assert pieces[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert pieces[28:30] == ["<mask>", "[DOC]"]
    assert pieces[30:] == [f"<sentinel_{k}>" for k in range(sentinels)]
    assert controls == [i in (0, 1, 2) or i >= 28 for i in range(30 + sentinels)]


def test_sentinels_leave_the_other_pieces_as_they_are(tmp_path):
    plain = train_vocabulary(texts(), 30, tmp_path / "plain")
    more = train_vocabulary(texts(), 35, tmp_path / "more", sentinels=5)
    assert pieces_of(plain)[0] == pieces_of(more)[0][:30]
    sentence = " ".join(WORDS)
    assert Vocabulary(str(plain)).tokenizer.encode(sentence) == Vocabulary(
        str(more)
    ).tokenizer.encode(sentence)


def test_scores_add_up_exactly_in_single_precision(vocabulary):
    """So that whoever adds them, in whatever order, finds the same ties."""
    scores = np.array([vocabulary.tokenizer.GetScore(i) for i in range(vocabulary.size)])
    assert len(np.unique(scores)) > 200, "they are still scores"
    path = np.random.default_rng(0).choice(scores, 4_000)
    single = np.cumsum(path.astype(np.float32), dtype=np.float32)
    np.testing.assert_array_equal(single, np.cumsum(path))


def test_round_trip(vocabulary):
    text = "The river rises every spring when the snow melts."
    assert vocabulary.tokenizer.decode(vocabulary.tokenizer.encode(text)) == text


def test_special_tokens_in_text_stay_text(vocabulary):
    ids = vocabulary.tokenizer.encode("a <mask> b [DOC] c <s> d </s> e <pad> f <sentinel_0>")
    assert vocabulary.sentinels
    assert not set(ids) & {0, 1, 2, *range(vocabulary.mask_id, vocabulary.size)}


def test_training_is_deterministic(tmp_path):
    paths = [train_vocabulary(texts(), 30, tmp_path / name) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["spm.model"]
    assert Vocabulary(str(paths[0])).checksum == Vocabulary(str(paths[1])).checksum


def test_byte_fallback_leaves_nothing_unknown(tmp_path):
    path = train_vocabulary(texts(), 286, tmp_path, byte_fallback=True)
    assert 3 not in Vocabulary(str(path)).tokenizer.encode("Привет")
    path = train_vocabulary(texts(), 30, tmp_path / "plain")
    assert 3 in Vocabulary(str(path)).tokenizer.encode("Привет")


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


def test_sizes_with_sentinels(tmp_path):
    """The limits count the sentinels."""
    with pytest.raises(UserError, match=r"the most is (\d+)") as error:
        train_vocabulary(texts(), 5000, tmp_path, sentinels=20)
    largest = int(str(error.value).rstrip(".").split()[-1])
    path = train_vocabulary(texts(), largest, tmp_path, sentinels=20)
    assert Vocabulary(str(path)).size == largest
    with pytest.raises(UserError, match=r"choose (\d+) or more") as error:
        train_vocabulary(texts(), 27, tmp_path / "small", sentinels=20)
    smallest = int(str(error.value).split("choose ")[1].split()[0])
    train_vocabulary(texts(), smallest, tmp_path / "small", sentinels=20)
    with pytest.raises(UserError, match="special ids and sentinels alone take 26"):
        train_vocabulary(texts(), 26, tmp_path / "none", sentinels=20)
    with pytest.raises(UserError, match="--sentinels = -1: choose 0 or more"):
        train_vocabulary(texts(), 30, tmp_path / "none", sentinels=-1)


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


def add_pieces(model, *names, control=True):
    """The model with pieces added at its end."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    kind = proto.SentencePiece.CONTROL if control else proto.SentencePiece.USER_DEFINED
    for name in names:
        proto.pieces.add(piece=name, score=0.0, type=kind)
    return proto.SerializeToString()


@pytest.mark.parametrize(
    "names, control",
    [
        (["<sentinel_1>"], True),  # begins at one
        (["<sentinel_0>", "<sentinel_2>"], True),  # leaves one out
        (["<sentinel_1>", "<sentinel_0>"], True),  # descends
        (["<sentinel_0>", "other"], True),  # goes on
        (["<sentinel_0>"], False),  # can come from text
        (["<sentinel_999999999>"], True),
        (["<sentinel_1000000000000>"], True),
    ],
)
def test_other_sentinels_are_refused(names, control, tmp_path):
    plain = train_vocabulary(texts(), 30, tmp_path).read_bytes()
    right, wrong = tmp_path / "right.model", tmp_path / "wrong.model"
    right.write_bytes(add_pieces(plain, "<sentinel_0>", "<sentinel_1>"))
    assert Vocabulary(str(right)).sentinels == 2
    wrong.write_bytes(add_pieces(plain, *names, control=control))
    with pytest.raises(UserError, match=r"lacks the layout .* then sentinels if any, last"):
        _ = Vocabulary(str(wrong)).size


def test_a_path_may_be_given_later(vocabulary_path):
    paths: list[str] = []
    vocabulary = Vocabulary(lambda: paths[0])
    paths.append(str(vocabulary_path))
    assert vocabulary.size == Vocabulary(str(vocabulary_path)).size


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
    parallel = False
    languages = ("big", "small")

    def shards(self, language, split):
        return 4 if language == "big" else 1

    def documents(self, language, split, shard):
        assert split == "train"
        for i in range(250 if language == "big" else 10):
            # Equal lengths, so that shares of documents are shares of characters.
            yield f"{language}{i:03}"[-5:]

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
