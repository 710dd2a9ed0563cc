"""Vocabularies of Hugging Face's models become ours with equal ids, or are refused by name."""

from __future__ import annotations

import json

import pytest
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from seqrecipes.conversion.hf.tokenizer import write_tokenizer
from seqrecipes.conversion.hf.vocabulary import read_vocabulary
from seqrecipes.data import pieces
from seqrecipes.errors import UserError
from tests.conversion.hf_tokenizer_harness import (
    LITERAL,
    ODD,
    ids,
    processor,
    sample_lines,
    tokenizer_of,
    train,
)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return sample_lines()


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


class Fairseq:
    """A folder with a model whose ids are SentencePiece's own, as fairseq has them."""

    def __init__(self, folder, model):
        self.folder, self.model = folder, model
        (folder / "sentencepiece.bpe.model").write_bytes(self.model)
        self.ordinary = pieces.pieces(self.model)[3:]

    def write(self, name, value):
        (self.folder / name).write_text(json.dumps(value))

    def check(self, last, **options):
        """Ids are fairseq's: one more than SentencePiece's, and 3 for what is unknown."""
        imported = read_vocabulary(self.folder, **options)
        assert imported.pieces == ["<s>", "<pad>", "</s>", "<unk>", *self.ordinary, *last]
        theirs, ours = processor(self.model), processor(imported.model)
        for text in [*ODD, *LITERAL, "The river rises in spring. Der Fluss steigt. 日本語"]:
            expected = [3 if i == 0 else i + 1 for i in theirs.encode(text)]
            assert ours.encode(text) == expected, text
        return imported


@pytest.fixture(scope="module")
def fairseq_model(lines):
    return train(lines)


@pytest.fixture
def fairseq(tmp_path, fairseq_model):
    return Fairseq(tmp_path, fairseq_model)


def test_xlm_r(fairseq):
    imported = fairseq.check(["<mask>"], sentinels=2)
    assert pieces.pieces(imported.model)[1402:] == ["[DOC]", "<sentinel_0>", "<sentinel_1>"]
    fairseq.write("config.json", {"vocab_size": 1402})
    fairseq.check(["<mask>"])


# fmt: off
CC25 = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN",
    "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO",
    "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN",
]
# fmt: on


def test_languages_of_mbart_by_class_or_size(fairseq):
    fairseq.write("tokenizer_config.json", {"tokenizer_class": "MBartTokenizer"})
    fairseq.check([*CC25, "<mask>"])
    fairseq.write("tokenizer_config.json", {"tokenizer_class": "MBart50Tokenizer"})
    fifty = read_vocabulary(fairseq.folder).pieces
    assert fifty[1401:1426] == CC25
    assert (fifty[1426], fifty[-2:], len(fifty)) == ("af_ZA", ["sl_SI", "<mask>"], 1454)
    fairseq.write("tokenizer_config.json", {})
    fairseq.write("config.json", {"vocab_size": 1427})
    fairseq.check([*CC25, "<mask>"])
    fairseq.write("config.json", {"vocab_size": 1454})
    assert read_vocabulary(fairseq.folder).pieces == fifty


def test_languages_of_mbart_where_listed(fairseq):
    fairseq.write("special_tokens_map.json", {"additional_special_tokens": ["b_B", "a_A"]})
    fairseq.check(["b_B", "a_A", "<mask>"])
    listed = {
        "additional_special_tokens": [{"content": "c_C"}],
        "tokenizer_class": "MBartTokenizer",
    }
    fairseq.write("tokenizer_config.json", listed)
    fairseq.check(["c_C", "<mask>"])
    decoder = {str(1401 + i): {"content": name} for i, name in enumerate(["x", "<mask>"])}
    fairseq.write("tokenizer_config.json", listed | {"added_tokens_decoder": decoder})
    fairseq.check(["x", "<mask>"])
    decoder["1404"] = {"content": "y"}
    fairseq.write("tokenizer_config.json", {"added_tokens_decoder": decoder})
    with pytest.raises(UserError, match="no piece has id 1403, though some have higher ids"):
        read_vocabulary(fairseq.folder)


def unigram_json(folder, names, *, specials, normalizer, pre_tokenizer):
    """A tokenizer.json as converters and rebuilding tokenizers write it."""
    tokenizer = tokenizers.Tokenizer(models.Unigram(names, unk_id=3, byte_fallback=False))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in specials])
    tokenizer.save(str(folder / "tokenizer.json"))


def fairseq_json(fairseq, last, charsmap, pre_tokenizer, *normalize):
    model = ModelProto.FromString(fairseq.model)
    table = [(name, 0.0) for name in pieces.FIRST_PIECES]
    table += [(piece.piece, piece.score) for piece in model.pieces[3:]]
    table += [(name, 0.0) for name in last]
    if charsmap:
        normalize = (
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            *normalize,
        )
    unigram_json(
        fairseq.folder,
        table,
        specials=[*pieces.FIRST_PIECES, *last],
        normalizer=normalizers.Sequence(list(normalize)) if normalize else None,
        pre_tokenizer=pre_tokenizer,
    )


COLLAPSE = normalizers.Replace(Regex(" {2,}"), " ")
WORDWISE = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])


@pytest.mark.parametrize("charsmap", [True, False])
@pytest.mark.parametrize(
    "pre_tokenizer, normalize",
    [(WORDWISE, []), (pre_tokenizers.Metaspace(), [COLLAPSE])],
    ids=["words", "collapsed"],
)
def test_unigram_files_of_others(charsmap, pre_tokenizer, normalize, fairseq, lines):
    fairseq_json(fairseq, ["en_XX", "<mask>"], charsmap, pre_tokenizer, *normalize)
    if charsmap:
        fairseq.check(["en_XX", "<mask>"])
    (fairseq.folder / "sentencepiece.bpe.model").unlink()
    imported = read_vocabulary(fairseq.folder)
    assert imported.pieces == [*pieces.FIRST_PIECES, *fairseq.ordinary, "en_XX", "<mask>"]
    theirs, ours = tokenizer_of(fairseq.folder), processor(imported.model)
    assert ours.is_control(1401)
    some = (
        ["Ａ ① tab\tand\xa0nbsp", "☃☃ ☃", "a▁b", "日本語　です"]
        if pre_tokenizer is WORDWISE
        else []
    )
    for text in [*lines, *some]:
        assert ours.encode(text) == ids(theirs, text), text


def test_fairseqs_count_and_tokenizer_json_must_agree(fairseq):
    fairseq.ordinary = fairseq.ordinary[1:]
    model = ModelProto.FromString(fairseq.model)
    del model.pieces[3]
    fairseq.model, original = model.SerializeToString(), fairseq.model
    fairseq_json(fairseq, ["<mask>"], True, WORDWISE)
    first = pieces.pieces(original)[3]
    with pytest.raises(UserError, match=f"id 4 is '{first}' by fairseq's count, and "):
        read_vocabulary(fairseq.folder)


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda t: t["normalizer"]["normalizers"].append({"type": "NFD"}), "its step NFD"),
        (lambda t: t["normalizer"]["normalizers"].reverse(), "would not segment 'One  two, three"),
        (lambda t: t["pre_tokenizer"].update(type="Digits"), "its step Digits"),
        (lambda t: t["model"].update(unk_id=4), "an unknown piece of id 4"),
        (lambda t: t["model"].update(type="WordPiece"), "of type WordPiece is neither"),
        (lambda t: t["added_tokens"].append({"id": 2001, "content": "x"}), "no piece has id 2000"),
        (lambda t: t["model"]["vocab"].__setitem__(51, t["model"]["vocab"][50]), "damaged"),
        (lambda t: t["model"].pop("vocab"), "damaged"),
        (lambda t: t.pop("added_tokens"), "damaged"),
        (lambda t: t["added_tokens"][0].pop("lstrip"), "damaged"),
        (lambda t: t.clear(), "damaged"),
    ],
)
def test_unigram_files_that_sentencepiece_cannot_say(change, problem, vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=512)
    (tmp_path / "spm.model").unlink()
    edit(tmp_path / "tokenizer.json", change)
    with pytest.raises(UserError, match=problem):
        read_vocabulary(tmp_path)


def move(tokens, old, new):
    """Swaps two ids everywhere in a tokenizer.json."""
    vocab = tokens["model"]["vocab"]
    vocab[old], vocab[new] = vocab[new], vocab[old]
    for token in tokens["added_tokens"]:
        token["id"] = {old: new, new: old}.get(token["id"], token["id"])


@pytest.mark.parametrize(
    "ids, problem",
    [
        ((1, 2), "id 1 is '</s>', which must be '<pad>'"),
        ((0, 3), "id 0 is '<unk>', which must be '<s>'"),
        ((1993, 1994), "id 1995 is '<sentinel_0>'; after '<mask>', which is id 1994, nothing but"),
        ((1000, 1993), r"id 1001 is .*; after '<mask>', which is id 1000, nothing but"),
        ((1995, 1996), "id 1995 is '<sentinel_1>'; after '<mask>', which is id 1993, nothing but"),
    ],
)
def test_special_pieces_elsewhere_are_refused(ids, problem, vocabulary, tmp_path):
    write_tokenizer(vocabulary, tmp_path, max_length=512)
    (tmp_path / "spm.model").unlink()
    edit(tmp_path / "tokenizer.json", lambda tokens: move(tokens, *ids))
    with pytest.raises(UserError, match=problem) as error:
        read_vocabulary(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert "--vocabulary" in str(error.value)


@pytest.fixture
def byte_level(tmp_path, lines):
    """The files of a tokenizer like RoBERTa's, and the tokenizer."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator([*lines, "a  b", "▁", "▁"], 700, special_tokens=specials)
    tokenizer.save_model(str(tmp_path))
    return tmp_path, tokenizer


def test_byte_level_pieces_are_spelled_as_sentencepiece_spells(byte_level):
    folder, tokenizer = byte_level
    imported = read_vocabulary(folder)
    assert imported.model is None
    assert len(imported.pieces) == tokenizer.get_vocab_size() == len(set(imported.pieces))
    assert imported.pieces[:5] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert "▁the" in imported.pieces
    decode = decoders.ByteLevel().decode
    spelled = 0
    for index, name in enumerate(imported.pieces[5:], 5):
        text = decode([tokenizer.id_to_token(index)])
        if "\ufffd" in text or "▁" in text:
            assert name.startswith("<0x"), (index, name)
        else:
            assert name.replace("▁", " ") == text
            spelled += 1
    assert spelled > 400
    byte = tokenizer.encode("\xe9").ids[0]
    assert imported.pieces[byte] in ("é", "<0xC3>")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").unlink()
    assert read_vocabulary(folder) == imported


def test_byte_level_tables_with_gaps_or_other_letters_are_refused(byte_level):
    folder, _ = byte_level
    (folder / "added_tokens.json").write_text('{"<extra>": 700}')
    assert read_vocabulary(folder).pieces[700:] == ["<extra>"]
    (folder / "added_tokens.json").write_text('{"<extra>": 702}')
    with pytest.raises(UserError, match="no piece has id 700"):
        read_vocabulary(folder)
    (folder / "added_tokens.json").unlink()
    edit(folder / "vocab.json", lambda vocab: vocab.update({"日本": 700}))
    with pytest.raises(UserError, match="damaged"):
        read_vocabulary(folder)


def test_folders_without_a_tokenizer_say_what_was_looked_for(tmp_path):
    with pytest.raises(UserError) as error:
        read_vocabulary(tmp_path)
    for name in ("spm.model", "sentencepiece.bpe.model", "tokenizer.json", "vocab.json"):
        assert name in str(error.value)
    assert "--vocabulary" in str(error.value)


@pytest.mark.parametrize(
    "name", ["spm.model", "sentencepiece.bpe.model", "tokenizer.json", "vocab.json"]
)
@pytest.mark.parametrize("content", [b"", b"text", b"[1]", b"\xff\xfe", b"{}"])
def test_damaged_files_are_refused_by_name(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_vocabulary(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_truncated_models_are_refused(vocabulary, fairseq, tmp_path):
    for name, data in (("spm.model", vocabulary), ("sentencepiece.bpe.model", fairseq.model)):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(UserError):
            read_vocabulary(folder)


def test_a_model_of_another_layout_is_refused(fairseq):
    model = ModelProto.FromString(fairseq.model)
    model.pieces[1].piece = "[CLS]"
    (fairseq.folder / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"piece 1 is '\[CLS\]' where models of fairseq have '<s>'"):
        read_vocabulary(fairseq.folder)
    (fairseq.folder / "spm.model").write_bytes(fairseq.model)
    with pytest.raises(UserError, match="id 0 is '<unk>', which must be '<s>'"):
        read_vocabulary(fairseq.folder)
