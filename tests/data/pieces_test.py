"""The layout of ids, without TensorFlow."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import pytest
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from seqrecipes.data import pieces
from seqrecipes.data.objectives.base import Specials
from seqrecipes.errors import UserError

WORDS = ["the", "river", "rises", "every", "spring", "when", "snow", "melts", "in", "mountains"]


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A model with the first four pieces in place and none of the last."""
    lines = (" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 9)) for i in range(300))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=28,
        minloglevel=2,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
    )
    return model.getvalue()


def completed(data, sentinels, *present):
    model = ModelProto.FromString(data)
    for name in present:
        model.pieces.add(piece=name, score=0.0, type=ModelProto.SentencePiece.CONTROL)
    return pieces.complete(model, sentinels)


@pytest.mark.parametrize(
    "present, sentinels, appended",
    [
        ([], 0, ["<mask>", "[DOC]"]),
        ([], 2, ["<mask>", "[DOC]", "<sentinel_0>", "<sentinel_1>"]),
        (["<mask>"], 1, ["[DOC]", "<sentinel_0>"]),
        (["<mask>", "[DOC]"], 0, []),
        (["<mask>", "[DOC]", "<sentinel_0>"], 2, ["<sentinel_1>"]),
        (["<mask>", "[DOC]", "<sentinel_0>"], 0, []),
        (["en_XX", "<mask>"], 0, ["[DOC]"]),
    ],
)
def test_only_what_is_missing_is_appended(trained, present, sentinels, appended):
    data = completed(trained, sentinels, *present)
    names = pieces.pieces(data)
    assert names == pieces.pieces(trained) + present + appended
    assert ModelProto.FromString(data).trainer_spec.vocab_size == len(names)
    assert completed(data, sentinels) == data
    model = pieces.parse(data, "a model")
    assert all(model.tokenizer.IsControl(i) for i in range(28, len(names)))


def test_special_ids(trained):
    model = pieces.parse(completed(trained, 3), "a model")
    assert model.sentinels == 3
    assert pieces.specials(model) == Specials(
        0, 1, 2, 3, mask=28, doc=29, vocab_size=33, sentinels=3
    )


def test_checksum_is_that_of_the_file(trained):
    assert pieces.checksum(trained) == hashlib.sha256(trained).hexdigest()


def test_a_file_is_read_again_when_it_has_changed(trained, tmp_path):
    path = tmp_path / "spm.model"
    path.write_bytes(completed(trained, 0))
    first = pieces.load(str(path))
    assert pieces.load(str(path)) is first
    path.write_bytes(completed(trained, 4))
    assert pieces.load(str(path)).sentinels == 4


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"text", "vocabulary = 'x.model': this is not a SentencePiece model"),
        (b"", "vocabulary = 'x.model': this"),
        (None, "lacks the layout <s>, <pad>, </s>, <unk> first"),
    ],
)
def test_other_files_are_refused_by_name(trained, data, problem):
    with pytest.raises(UserError, match=problem) as error:
        pieces.parse(trained if data is None else data, "x.model")
    assert "python -m seqrecipes.train_vocabulary" in str(error.value)


def test_nothing_of_tensorflow_is_imported():
    program = (
        "import sys, seqrecipes.conversion.hf.tokenizer, seqrecipes.conversion.hf.vocabulary\n"
        "print({'tensorflow', 'seqio', 'torch', 'transformers'} & sys.modules.keys())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
