"""TFDS corpora, on TFDS-format folders made here; nothing is fetched."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gin
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming, splits

from seqrecipes.data.corpora.corpus import BadRecord, all_documents
from seqrecipes.data.seqio.tfds_text import LANGUAGES, TfdsText, mc4, wiki
from seqrecipes.errors import UserError

Shards = Sequence[Sequence[str | bytes]]
WIKI_DE = "wikipedia/20230601.de:1.0.0"
MC4 = "c4/multilingual:3.1.0"


def write_dataset(data_dir: Path, name: str, content: Mapping[str, Shards]) -> list[Path]:
    """A prepared dataset of a name that TFDS knows; returns its files."""
    builder = tfds.builder(name, data_dir=data_dir)
    builder.data_path.mkdir(parents=True)
    infos, files = [], []
    for split, shards in content.items():
        template = naming.ShardedFileTemplate(
            data_dir=builder.data_path,
            dataset_name=builder.name,
            split=split,
            filetype_suffix="tfrecord",
        )
        for path, texts in zip(template.sharded_filepaths(len(shards)), shards, strict=True):
            write_records(Path(path), texts, builder.info.features)
            files.append(Path(path))
        lengths = [len(texts) for texts in shards]
        infos.append(splits.SplitInfo(split, lengths, sum(lengths), template))
    builder.info.set_splits(splits.SplitDict(infos))
    builder.info.write_to_directory(builder.data_path)
    return files


def write_records(path: Path, texts: Sequence[str | bytes], features: Iterator[str]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for text in texts:
            values = dict.fromkeys(features, b"-")
            values["text"] = text.encode() if isinstance(text, str) else text
            writer.write(
                tf.train.Example(
                    features=tf.train.Features(
                        feature={
                            key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                            for key, value in values.items()
                        }
                    )
                ).SerializeToString()
            )


def texts_in(path: Path) -> list[str]:
    examples = (tf.train.Example.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path)))
    return [e.features.feature["text"].bytes_list.value[0].decode() for e in examples]


def numbered(*lengths: int) -> list[list[str]]:
    return [[f"Satz {s}.{i} äß" for i in range(n)] for s, n in enumerate(lengths)]


class LittleTexts(tfds.core.GeneratorBasedBuilder):
    """As users write their own; TFDS shuffles it and writes the files."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar[dict[str, Any]] = {}  # nothing to download

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"body": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        for i in range(300):
            yield i, {"body": f"text {i}"}


@pytest.fixture
def nothing_held_out(monkeypatch):
    """Of texts so small some would be read for the other split."""
    monkeypatch.setattr("seqrecipes.data.seqio.tfds_text.exact_limit", lambda records, every: 0)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", refuse)


def test_wiki_reads_file_by_file_and_holds_documents_out(tmp_path: Path) -> None:
    german, tamil = numbered(7, 300, 0, 4), numbered(5)
    write_dataset(tmp_path, WIKI_DE, {"train": german})
    write_dataset(tmp_path, "wikipedia/20230601.ta:1.0.0", {"train": tamil})
    corpus = wiki(languages=("ta", "de"), data_dir=str(tmp_path), validation_every=3)

    assert corpus.languages == ("de", "ta") and not corpus.parallel
    assert corpus.shards("de", "train") == corpus.shards("de", "validation") == 4
    for language, shards in (("de", german), ("ta", tamil)):
        every = []
        for shard, texts in enumerate(shards):
            held_out = list(corpus.documents(language, "validation", shard))
            assert held_out == [text for text in texts if text in held_out]
            rest = [text for text in texts if text not in held_out]
            assert list(corpus.documents(language, "train", shard)) == rest
            every += held_out
        assert len(every) == sum(map(len, shards)) // 3


def test_mc4_has_validation_splits_of_its_own(tmp_path: Path) -> None:
    content = {"hi": numbered(3, 200), "hi-validation": [["ein", "zwei"]], "en": [["one"]]}
    write_dataset(tmp_path, MC4, content)
    corpus = mc4(languages=("hi", "en"), data_dir=str(tmp_path))
    assert corpus.shards("hi", "train") == 2 and corpus.shards("hi", "validation") == 1
    assert list(all_documents(corpus, "hi", "train")) == [
        t for texts in content["hi"] for t in texts
    ]
    assert list(all_documents(corpus, "hi", "validation")) == ["ein", "zwei"]
    with pytest.raises(UserError, match=r"mc4\['en'\].*no split 'en-validation'.*en, hi"):
        corpus.shards("en", "validation")


def test_shards_cover_what_tfds_wrote_once_and_in_order(tmp_path: Path) -> None:
    config = tfds.download.DownloadConfig(num_shards=4)
    LittleTexts(data_dir=tmp_path).download_and_prepare(download_config=config)
    corpus = TfdsText(
        datasets={"en": "little_texts:1.0.0"},
        data_dir=str(tmp_path),
        train_split="train",
        validation_split="train",
        text_field="body",
    )
    assert corpus.shards("en", "train") == 4
    texts = [t for shard in range(4) for t in corpus.documents("en", "train", shard)]
    assert len(texts) == 300 and set(texts) == {f"text {i}" for i in range(300)}
    read = tfds.ReadConfig(interleave_cycle_length=1)
    whole = tfds.load("little_texts:1.0.0", split="train", data_dir=tmp_path, read_config=read)
    assert texts == [example["body"].decode() for example in tfds.as_numpy(whole)]


@pytest.mark.usefixtures("nothing_held_out")
def test_opens_no_other_file(tmp_path: Path) -> None:
    files = write_dataset(tmp_path, WIKI_DE, {"train": numbered(4, 5, 6)})
    files[0].unlink()
    files[2].unlink()
    corpus = wiki(languages=["de"], data_dir=str(tmp_path))
    assert list(corpus.documents("de", "train", 1)) == texts_in(files[1])


def test_files_may_be_missing_for_languages_that_are_not_read(tmp_path: Path) -> None:
    files = write_dataset(tmp_path, MC4, {"de": [["a"]], "en": [["b"]], "en-validation": [["c"]]})
    files[0].unlink()
    corpus = mc4(languages=["en"], data_dir=str(tmp_path))
    assert list(all_documents(corpus, "en", "train")) == ["b"]


@pytest.mark.parametrize("make", [wiki, mc4])
def test_defaults_are_names_that_tfds_knows(make: Callable[..., TfdsText], tmp_path: Path) -> None:
    corpus = make()
    assert corpus.languages == LANGUAGES and len(LANGUAGES) == 12
    for name in (corpus.datasets or {}).values():
        builder = tfds.builder(name, data_dir=tmp_path)
        assert isinstance(builder, tfds.core.BeamBasedBuilder)
        assert builder.info.full_name == name.replace(":", "/")
        assert corpus.text_field in builder.info.features


def test_reads_mocked_datasets(tmp_path: Path) -> None:
    write_dataset(tmp_path, WIKI_DE, {"train": numbered(2)})
    policy = tfds.testing.MockPolicy.USE_FILES
    with tfds.testing.mock_data(num_examples=200, policy=policy, data_dir=str(tmp_path)):
        corpus = wiki(languages=["de"], validation_every=100)
        train, held_out = (list(corpus.documents("de", s, 0)) for s in ("train", "validation"))
        assert len(held_out) == 2 and all(isinstance(text, str) and text for text in train)
        assert len(train) + len(set(held_out)) == len(set(train + held_out)) == 200
        assert list(corpus.documents("de", "train", 0)) == train


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (
            lambda folder: wiki(["de"], data_dir=folder),
            ["wiki.data_dir", "tfds build wikipedia/20230601.de:1.0.0", "48 GiB", "Beam"],
        ),
        (
            lambda folder: mc4(["de"], data_dir=folder),
            ["mc4.data_dir", "tfds build c4/multilingual:3.1.0", "27 TiB", "runner="],
        ),
        (
            lambda folder: TfdsText({"en": "lm1b:1.1.0"}, folder),
            ["tfds build lm1b", "catalog/lm1b"],
        ),
        (lambda folder: wiki(["de", "xx"], data_dir=folder), ["wiki['xx']", "ta, tcy, te,"]),
        (lambda folder: wiki(["de"], "20231231", folder), ["20231231", "20230201, 20230601"]),
        (lambda folder: mc4(["de"], "1.2.3", folder), ["mc4['de']", "cannot build", "3.1.0"]),
        (lambda folder: TfdsText({"en": "nothing:1.0.0"}, folder), ["no dataset 'nothing'"]),
        (lambda folder: TfdsText({"en": "c4/x"}, folder), ["no 'x'", "multilingual"]),
    ],
    ids=["wiki", "mc4", "other", "language", "date", "version", "name", "config"],
)
def test_a_dataset_that_is_not_there(
    make: Callable[[str], TfdsText], parts: list[str], tmp_path: Path
) -> None:
    corpus = make(str(tmp_path))
    with pytest.raises(UserError) as error:
        list(corpus.documents(corpus.languages[-1], "train", 0))
    for part in [*parts, str(tmp_path)]:
        assert part.replace("Beam", "--beam_pipeline_options") in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=f"wiki.data_dir = '{tmp_path}'"):
        wiki(["de"]).shards("de", "train")


def _rewrite(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


@pytest.mark.usefixtures("nothing_held_out")
@pytest.mark.parametrize(
    ("damage", "good", "problem"),
    [
        (_rewrite(lambda data: data[: -len(data) // 3]), 133, "133 of its 200 texts"),
        (_rewrite(lambda data: data[: len(data) // 200 * 150 + 7]), 150, "150 of its 200 texts"),
        (_rewrite(lambda data: data[:-3] + b"???"), 199, "corrupted record"),
        (_rewrite(lambda data: data[: len(data) // 200 * 150]), 150, "only 150"),
        (_rewrite(lambda data: data + data[: len(data) // 200]), 200, "at least 201"),
        (_rewrite(lambda data: b""), 0, "0 of its 200 texts"),
        (Path.unlink, 0, "No such file"),
    ],
    ids=["cut", "cut in a record", "changed", "cut between records", "longer", "empty", "gone"],
)
def test_files_that_cannot_be_read(
    damage: Callable[[Path], object], good: int, problem: str, tmp_path: Path
) -> None:
    texts = [f"text {i:03}" for i in range(200)]
    files = write_dataset(tmp_path, WIKI_DE, {"train": [texts, ["whole"]]})
    corpus = wiki(languages=["de"], data_dir=str(tmp_path), validation_every=1000)
    damage(files[0])

    read = []
    with pytest.raises(UserError) as error:
        read.extend(corpus.documents("de", "train", 0))
    for part in (str(files[0]), "wikipedia/20230601.de/1.0.0:train", problem, "on_bad_record"):
        assert part in str(error.value)

    skipping = dataclasses.replace(corpus, on_bad_record="skip")
    *read, bad = skipping.documents("de", "train", 0)
    assert read == texts[:good]
    assert isinstance(bad, BadRecord) and bad.where == str(files[0]) and problem in bad.problem
    assert list(skipping.documents("de", "validation", 0)) == []
    assert list(skipping.documents("de", "train", 1)) == ["whole"]


def test_texts_that_cannot_be_used_keep_their_place(tmp_path: Path) -> None:
    shards: Shards = [["a"] * 3, ["eins", b"zw\xffei", "drei", "lang" * 9, "fünf"]]
    write_dataset(tmp_path, MC4, {"de": shards, "de-validation": shards})
    corpus = mc4(languages=["de"], data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"c4/multilingual/3.1.0:de:4.*not valid UTF-8"):
        list(corpus.documents("de", "train", 1))

    corpus = dataclasses.replace(corpus, on_bad_record="skip", max_document_bytes=20)
    read = list(corpus.documents("de", "train", 1))
    assert [r for r in read if isinstance(r, str)] == ["eins", "drei", "fünf"]
    assert [getattr(r, "where", "") for r in read] == [
        "",
        "c4/multilingual/3.1.0:de:4",
        "",
        "c4/multilingual/3.1.0:de:6",
        "",
    ]
    assert "36 bytes" in read[3].problem
    # The validation split has files of its own, and bad records of its own.
    assert len(list(corpus.documents("de", "validation", 1))) == 5


def test_bad_texts_are_no_documents_when_some_are_held_out(tmp_path: Path) -> None:
    write_dataset(tmp_path, WIKI_DE, {"train": [["1", b"\xff", "2", "3", b"\xfe", "4"]]})
    corpus = wiki(["de"], data_dir=str(tmp_path), validation_every=2, on_bad_record="skip")
    train = list(corpus.documents("de", "train", 0))
    held_out = list(corpus.documents("de", "validation", 0))
    assert len(held_out) == 2 and held_out == [text for text in "1234" if text in held_out]
    expected = [t for t in ("1", "bad 1", "2", "3", "bad 4", "4") if t not in held_out]
    found = [f"bad {r.where[-1]}" if isinstance(r, BadRecord) else r for r in train]
    assert found == expected


def test_wrong_descriptions_and_formats(tmp_path: Path) -> None:
    (file,) = write_dataset(tmp_path, WIKI_DE, {"train": numbered(2)})
    corpus = wiki(["de"], data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"text_field = 'body'.*are text, title"):
        dataclasses.replace(corpus, text_field="body").shards("de", "train")
    with pytest.raises(UserError, match=r"wiki.*choose one of de"):
        corpus.shards("fr", "train")
    (file.parent / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match=f"description in {file.parent} cannot be read"):
        wiki(["de"], data_dir=str(tmp_path)).shards("de", "train")
    LittleTexts(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    with pytest.raises(UserError, match="stored as array_record"):
        TfdsText({"en": "little_texts:1.0.0"}, str(tmp_path)).shards("en", "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {}}, "TfdsText.datasets"),
        ({"datasets": {"a/b": "lm1b"}}, "letters, digits"),
        ({"validation_every": 1}, "TfdsText.validation_every = 1"),
        ({"on_bad_record": "ignore"}, "choose one of raise, skip"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TfdsText({"en": "lm1b"}), **change)


@pytest.mark.parametrize("languages", ["de", []])
def test_languages_are_a_list(languages: Any) -> None:
    for make, name in ((wiki, "wiki"), (mc4, "mc4")):
        with pytest.raises(UserError, match=f"{name}.languages = .*(write|give) a list"):
            make(languages)


def test_fingerprint(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_dataset(one, WIKI_DE, {"train": numbered(4, 5)})
    corpus = wiki(["de"], data_dir=str(one))
    first = corpus.fingerprint()
    shutil.move(one, other)
    assert wiki(["de"], data_dir=str(other)).fingerprint() == first

    changed = [
        wiki(["de"], data_dir=str(other), validation_every=7),
        wiki(["de"], data_dir=str(other), on_bad_record="skip"),
    ]
    write_dataset(one, WIKI_DE, {"train": numbered(4, 6)})
    changed.append(wiki(["de"], data_dir=str(one)))
    write_dataset(other, "wikipedia/20230601.fr:1.0.0", {"train": numbered(4, 5)})
    changed.append(wiki(["de", "fr"], data_dir=str(other)))
    assert len({first, *(corpus.fingerprint() for corpus in changed)}) == 5


def test_gin_binds_each(tmp_path: Path) -> None:
    gin.clear_config()
    try:
        gin.parse_config(["wiki.languages = ('de',)", f"wiki.data_dir = {str(tmp_path)!r}"])
        gin.parse_config(["mc4.version = '3.0.1'", "wiki.on_bad_record = 'skip'"])
        assert wiki().datasets == {"de": WIKI_DE} and wiki().data_dir == str(tmp_path)
        assert wiki().on_bad_record == "skip" and mc4().on_bad_record == "raise"
        assert (mc4().datasets or {})["te"] == "c4/multilingual:3.0.1" and mc4().data_dir is None
    finally:
        gin.clear_config()


def test_a_corpus_in_use_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    write_dataset(tmp_path, WIKI_DE, {"train": numbered(3)})
    corpus = wiki(["de"], data_dir=str(tmp_path))
    documents = list(corpus.documents("de", "train", 0))
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy == corpus and list(copy.documents("de", "train", 0)) == documents


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_datasets"])
def test_where_tfds_is_not_installed_the_extra_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, WIKI_DE, {"train": numbered(3)})
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'seqrecipes\[data\]'") as caught:
        wiki(["de"], data_dir=str(tmp_path)).shards("de", "train")
    assert caught.value.field == "wiki['de']"
