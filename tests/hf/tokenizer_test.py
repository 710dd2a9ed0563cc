"""transformers reads our tokenizers offline, and we read its own."""

from __future__ import annotations

import io

import pytest
import sentencepiece
import tokenizers
import transformers

from seqrecipes.conversion.hf.tokenizer import write_tokenizer
from seqrecipes.conversion.hf.vocabulary import read_vocabulary
from seqrecipes.data import pieces
from tests.conversion.hf_tokenizer_harness import sample_lines

SIZE = 2000
MASK, DOC = SIZE - 7, SIZE - 6  # before five sentinels


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return sample_lines()


@pytest.fixture(scope="module")
def ours(vocabulary):
    return sentencepiece.SentencePieceProcessor(model_proto=vocabulary)


@pytest.fixture(scope="module")
def exported(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    write_tokenizer(vocabulary, folder, max_length=64)
    return folder


@pytest.fixture(scope="module")
def tokenizer(exported):
    return transformers.AutoTokenizer.from_pretrained(exported)


def test_special_ids(tokenizer, vocabulary):
    assert len(tokenizer) == SIZE
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == pieces.pieces(vocabulary)
    assert (tokenizer.bos_token_id, tokenizer.cls_token_id) == (0, 0)
    assert (tokenizer.eos_token_id, tokenizer.sep_token_id) == (2, 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 3)
    assert tokenizer.mask_token_id == MASK
    assert set(tokenizer.all_special_ids) == {0, 1, 2, 3, *range(MASK, len(tokenizer))}
    assert tokenizer.model_max_length == 64


def test_ids_of_texts_and_pairs(tokenizer, ours, lines):
    for text in lines:
        assert tokenizer(text)["input_ids"] == [0, *ours.encode(text), 2]
        plain = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        assert plain["input_ids"] == ours.encode(text)
    first, second = ours.encode(lines[0]), ours.encode(lines[-1])
    pair = tokenizer(lines[0], lines[-1])
    assert pair["input_ids"] == [0, *first, 2, 2, *second, 2]
    assert set(pair) == {"input_ids", "attention_mask"}
    assert len(tokenizer(lines[0] * 9, truncation=True)["input_ids"]) == 64


def test_literal_specials(tokenizer, ours):
    text = "river <mask> snow [DOC] melts<sentinel_4>"
    river, snow, melts = (ours.encode(word) for word in ("river", "snow", "melts"))
    special = [0, *river, MASK, *snow, DOC, *melts, DOC + 5, 2]
    assert tokenizer(text)["input_ids"] == special
    plain = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert plain == [0, *ours.encode(text), 2]


def test_batches_are_padded_on_the_right(tokenizer, ours):
    batch = tokenizer(["river", "the river rises"], padding=True)
    short, long = ([0, *ours.encode(text), 2] for text in ("river", "the river rises"))
    missing = len(long) - len(short)
    assert batch["input_ids"] == [short + [1] * missing, long]
    assert batch["attention_mask"] == [[1] * len(short) + [0] * missing, [1] * len(long)]


def test_decoding(tokenizer, ours, lines):
    known = [text for text in lines if 3 not in ours.encode(text)]
    assert len(known) > 100
    for text in known:
        decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
        assert decoded == ours.decode(ours.encode(text))


def test_saved_again_by_transformers(tokenizer, ours, lines, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "spm.model").exists()
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    imported = read_vocabulary(tmp_path)
    assert imported.model is not None
    assert imported.pieces == pieces.pieces(imported.model)
    back = sentencepiece.SentencePieceProcessor(model_proto=imported.model)
    for text in lines:
        assert again(text)["input_ids"] == [0, *ours.encode(text), 2]
        assert back.encode(text) == ours.encode(text)


@pytest.fixture(scope="module")
def fairseq(lines):
    """A model in SentencePiece's own layout, as fairseq trains them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=1400,
        minloglevel=2,
        character_coverage=0.999,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    "name, languages",
    [("XLMRobertaTokenizer", 0), ("MBartTokenizer", 25), ("MBart50Tokenizer", 52)],
)
def test_tokenizers_of_their_classes(name, languages, fairseq, lines, tmp_path):
    """From a model of fairseq: the file itself, and what save_pretrained makes of it."""
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    (source / "sentencepiece.bpe.model").write_bytes(fairseq)
    (source / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{name}"}}')
    theirs = getattr(transformers, name).from_pretrained(source)
    theirs.save_pretrained(saved)
    expected = theirs.convert_ids_to_tokens(range(len(theirs)))
    assert len(expected) == 1400 + languages + 2
    assert read_vocabulary(source).pieces == read_vocabulary(saved).pieces == expected

    back = sentencepiece.SentencePieceProcessor(model_proto=read_vocabulary(saved).model)
    # transformers 5 leaves the normalisation out of MBartTokenizer, the file has it.
    exact = sentencepiece.SentencePieceProcessor(model_proto=read_vocabulary(source).model)
    plain = sentencepiece.SentencePieceProcessor(model_proto=fairseq)
    for text in lines:
        assert back.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]
        assert exact.encode(text) == [index + 1 if index else 3 for index in plain.encode(text)]


@pytest.mark.parametrize("name", ["RobertaTokenizer", "BartTokenizer"])
def test_byte_level_tokenizers_of_their_classes(name, lines, tmp_path):
    trained = tokenizers.ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(lines, 600, special_tokens=specials)
    source, saved = tmp_path / "source", tmp_path / "saved"
    source.mkdir()
    trained.save_model(str(source))
    theirs = getattr(transformers, name).from_pretrained(source)
    theirs.save_pretrained(saved)
    imported = read_vocabulary(saved)
    assert imported == read_vocabulary(source)
    assert imported.model is None
    assert len(imported.pieces) == len(theirs)
    assert imported.pieces[theirs.mask_token_id] == "<mask>"
    ids = theirs(" the", add_special_tokens=False)["input_ids"]
    assert "".join(imported.pieces[index] for index in ids) == "▁the"
