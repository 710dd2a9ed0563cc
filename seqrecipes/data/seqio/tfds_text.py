"""Text that TensorFlow Datasets (TFDS) prepared: Wikipedia, mC4, or any dataset with a text field.

Nothing is ever downloaded or generated here: a dataset is read from the folder where `tfds build`
wrote it, and if it is not there the error says how to make it. docs/corpora.md has the sizes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin

from seqrecipes.config.check import Range, check, check_fields
from seqrecipes.data.corpora.corpus import (
    LANGUAGE,
    SMALL_BYTES,
    SPLITS,
    BadRecord,
    OnBadRecord,
    Split,
    ValidationEvery,
    digest,
    exact_limit,
    hold_out,
    hold_out_limit,
    raising,
)
from seqrecipes.errors import UserError

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te")

_BATCH = 128  # examples fetched at once; one at a time takes twice as long
# Of datasets that Apache Beam builds: the options to build with, and the price.
_BEAM = {
    "wikipedia": (
        "runner=DirectRunner,direct_running_mode=multi_processing,direct_num_workers=0",
        "48 GiB to download and 61 GiB prepared for all 12 languages",
    ),
    "c4": (
        "runner=DataflowRunner,project=PROJECT,region=REGION,temp_location=gs://BUCKET/temp",
        "27 TiB in version 3.0.1, all languages at once, from 86 crawls of the web by now: a "
        "cluster's work",
    ),
}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TfdsText:
    """Documents of TFDS datasets, one dataset (or split) per language; a file is a shard.

    Attributes:
      datasets: language -> `name`, `name/config` or `name/config:version`.
      data_dir: the folder that holds the datasets; TFDS' own (`TFDS_DATA_DIR`, or else
        ~/tensorflow_datasets) if None.
      train_split: the split that is trained on; `{language}` in it stands for the language.
      validation_split: likewise for validation. None: held out from `train_split`.
      validation_every: one in so many documents is held out, chosen by a hash of its text.
      text_field: the feature that holds the text.
      on_bad_record: whether to 'raise' at a record that cannot be used, or to 'skip' it, in which
        case the reader of the corpus is told of it. The unreadable rest of a file is one record.
      max_document_bytes: of UTF-8; a longer text is a bad record. To tokenize it would take about
        40 times its bytes.
      name: what errors call this corpus.
    """

    parallel: ClassVar[bool] = False

    datasets: Mapping[str, str] | None = None
    data_dir: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    validation_every: ValidationEvery = 100
    text_field: str = "text"
    on_bad_record: OnBadRecord = "raise"
    max_document_bytes: Annotated[int, Range(1)] = 16 << 20
    name: str = "TfdsText"

    def __post_init__(self) -> None:
        check_fields(self, self.name)
        if not self.datasets:
            raise UserError(
                f"{self.name}.datasets",
                self.datasets,
                "name a TFDS dataset per language, such as {'en': 'lm1b:1.1.0'}.",
            )
        for language in self.datasets:
            if not LANGUAGE.fullmatch(language):
                field = f"{self.name}.languages"
                raise UserError(field, language, "name languages by letters, digits and _.")

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages in alphabetical order."""
        return tuple(sorted(self.datasets or ()))

    def shards(self, language: str, split: Split) -> int:
        """See `Corpus.shards`; the number of files of the split.

        Raises:
          UserError: the dataset is not there, or has no such split or text field.
        """
        return self._split(language, split)[1].num_shards

    def documents(self, language: str, split: Split, shard: int) -> Iterator[str | BadRecord]:
        """See `Corpus.documents`; opens the file of the shard and no other.

        Raises:
          UserError: while iterating; see `shards` and `on_bad_record`.
        """
        builder, info = self._split(language, split)
        records = self._read(builder, info, language, shard)
        if self.on_bad_record == "raise":
            records = raising(records, f"{self.name}.on_bad_record")
        if not self.validation_split:
            records = hold_out(records, split, self._limit(language))
        yield from records

    def contents(self) -> dict[str, str]:
        """See `Corpus.contents`; of the datasets' metadata, wherever they lie, and settings."""
        found = {}
        for language in self.languages:
            for split in SPLITS:
                builder, info = self._split(language, split)
                files = (info.shard_lengths, info.num_bytes)
                found[f"{split}/{language}"] = digest(builder.info.full_name, info.name, *files)
        every = 0 if self.validation_split else self.validation_every
        settings = (self.text_field, every, self.on_bad_record, self.max_document_bytes)
        return found | {"settings": json.dumps(settings)}

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return digest(type(self).__name__, self.contents())

    def _limit(self, language: str) -> int:
        """Below it lie the hashes of documents that are held out."""
        builder, info = self._split(language, "train")
        if info.num_bytes > SMALL_BYTES:
            return hold_out_limit(self.validation_every)
        every = range(info.num_shards)
        records = (record for n in every for record in self._read(builder, info, language, n))
        return exact_limit(records, self.validation_every)

    @functools.cached_property
    def _builders(self) -> dict[str, Any]:
        return {}

    def _split(self, language: str, split: Split) -> tuple[Any, Any]:
        """The builder of a language's dataset and its SplitInfo."""
        field, name = f"{self.name}[{language!r}]", (self.datasets or {}).get(language)
        if name is None:
            raise UserError(field, name, f"choose one of {', '.join(self.languages)}.")
        if name not in self._builders:
            self._builders[name] = open_builder(self.name, field, name, self.data_dir)
        builder = self._builders[name]
        import tensorflow_datasets as tfds

        features, text = builder.info.features.items(), tfds.features.Text
        fields = sorted(key for key, feature in features if isinstance(feature, text))
        if self.text_field not in fields:
            problem = f"the texts of {name} are {', '.join(fields) or 'none'}."
            raise UserError(f"{self.name}.text_field", self.text_field, problem)
        pattern = self.validation_split if split == "validation" else None
        wanted = (pattern or self.train_split).replace("{language}", language)
        if wanted not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits)) or "none"
            raise UserError(field, name, f"it has no split {wanted!r}; its splits: {known}.")
        return builder, builder.info.splits[wanted]

    def _read(
        self, builder: Any, info: Any, language: str, shard: int
    ) -> Iterator[str | BadRecord]:
        import tensorflow as tf

        field, name = f"{self.name}[{language!r}]", f"{builder.info.full_name}:{info.name}"
        start, texts = sum(info.shard_lengths[:shard]), info.shard_lengths[shard]
        done = 0
        try:
            for text in self._texts(builder, info, shard):
                # The same number as in TFDS' own slices: `train[17:18]` is text 17.
                where, done = f"{name}:{start + done}", done + 1
                if len(text) > self.max_document_bytes:
                    limit = f"max_document_bytes = {self.max_document_bytes:,}"
                    problem = f"this text has {len(text):,} bytes, more than {limit}."
                    yield BadRecord(field, where, problem)
                    continue
                if b"\0" in text:
                    yield BadRecord(field, where, "this text holds the character NUL.")
                    continue
                try:
                    yield text.decode("utf-8")
                except UnicodeDecodeError:
                    yield BadRecord(field, where, "this text is not valid UTF-8.")
        except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError, *_damages()) as error:
            yield BadRecord(
                field,
                os.fspath(info.filepaths[shard]),
                f"this file of {name} cannot be read after {done} of its {texts} texts "
                f"({_message(error)}); copy or build it again.",
            )

    def _texts(self, builder: Any, info: Any, shard: int) -> Iterator[bytes]:
        """The texts of a file in its order; at damage, all before it and then an error of TF."""
        import tensorflow_datasets as tfds

        if not info.shard_lengths[shard]:
            return
        # TFDS would keep small datasets in memory.
        config = tfds.ReadConfig(try_autocache=False)
        split = tfds.core.ReadInstruction(info.name, from_=shard, to=shard + 1, unit="shard")
        dataset = builder.as_dataset(split=split, read_config=config, shuffle_files=False)
        dataset = dataset.map(lambda example: example[self.text_field])
        done = 0
        try:
            for batch in dataset.batch(_BATCH).prefetch(1).as_numpy_iterator():
                yield from batch
                done += len(batch)
        except _damages():
            # An error takes the good texts of its batch along. Those come one by one.
            for batch in dataset.skip(done).batch(1).as_numpy_iterator():
                yield from batch


@gin.configurable
def wiki(
    languages: Sequence[str] = LANGUAGES,
    date: str = "20230601",
    data_dir: str | None = None,
    validation_every: int = 1000,
    on_bad_record: OnBadRecord = "raise",
) -> TfdsText:
    """Wikipedia articles, `wikipedia/<date>.<language>:1.0.0`. See `TfdsText`."""
    return TfdsText(
        datasets={
            language: f"wikipedia/{date}.{language}:1.0.0"
            for language in _listed("wiki.languages", languages)
        },
        data_dir=data_dir,
        validation_every=validation_every,
        on_bad_record=on_bad_record,
        name="wiki",
    )


@gin.configurable
def mc4(
    languages: Sequence[str] = LANGUAGES,
    version: str = "3.1.0",
    data_dir: str | None = None,
    on_bad_record: OnBadRecord = "raise",
) -> TfdsText:
    """Web pages, `c4/multilingual:<version>`, which has validation splits. See `TfdsText`."""
    return TfdsText(
        datasets=dict.fromkeys(_listed("mc4.languages", languages), f"c4/multilingual:{version}"),
        data_dir=data_dir,
        train_split="{language}",
        validation_split="{language}-validation",
        on_bad_record=on_bad_record,
        name="mc4",
    )


def _listed(field: str, languages: Sequence[str]) -> Sequence[str]:
    check(languages, Sequence[str], field)
    if not languages:
        raise UserError(field, languages, "give a list of languages, such as ['de', 'en'].")
    return languages


def _damages() -> tuple[type[Exception], ...]:
    """A checksum or length that is wrong, more or fewer records than known, no tf.Example."""
    import tensorflow as tf

    errors = tf.errors
    return errors.DataLossError, errors.FailedPreconditionError, errors.InvalidArgumentError


def _message(error: Any) -> str:
    """An error of TensorFlow without its account of where in the graph it happened."""
    line = re.sub(r"\{\{.*?\}\} *|\[Op:.*", "", error.message.partition("\n")[0]).strip()
    return line if len(line) < 200 else f"...{line[-200:]}"


def open_builder(corpus: str, field: str, name: str, data_dir: str | None) -> Any:
    """The builder of a dataset that is there.

    Raises:
      UserError: it is not; says where it was looked for and how to make it.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        remedy = f"{error}; install it with pip install 'seqrecipes[data]'"
        raise UserError(field, name, remedy) from error
    from google.protobuf.json_format import ParseError

    folder = os.path.expanduser(data_dir) if data_dir else tfds.core.constants.DATA_DIR
    try:
        builder = tfds.builder(name, data_dir=folder if data_dir else None)
        prepared = builder.is_prepared()
    except (ValueError, AssertionError, OSError, ParseError) as error:
        path = os.path.join(folder, name.replace(":", "/"))
        if tf.io.gfile.isdir(path):
            problem = f"its description in {path} cannot be read ({error}); copy or build it again."
        else:
            reason = _reason(name, error)
            problem = f"{folder} does not hold it, and TFDS {tfds.__version__} {reason}"
        raise UserError(field, name, problem) from error
    if not prepared:
        dataset = re.split("[/:]", name)[0]
        command, cost = f"tfds build {name} --data_dir={shlex.quote(folder)}", ""
        if isinstance(builder, tfds.core.BeamBasedBuilder):
            options, cost = _BEAM.get(dataset, (_BEAM["wikipedia"][0], ""))
            command += f" --beam_pipeline_options={options}"
        cost = cost or f"tensorflow.org/datasets/catalog/{dataset} says how large it is"
        raise UserError(
            f"{corpus}.data_dir",
            folder,
            f"this folder holds no {name}. Name the one that does, or build it here: `{command}` "
            f"({cost}; see docs/corpora.md).",
        )
    if (file_format := builder.info.file_format.value) != "tfrecord":
        remedy = f"it is stored as {file_format}; build it with --file_format=tfrecord."
        raise UserError(field, name, remedy)
    return builder


def _reason(name: str, error: Exception) -> str:
    """Why TFDS cannot build a dataset; lists what it knows instead."""
    import tensorflow_datasets as tfds

    dataset, _, config = name.partition(":")[0].partition("/")
    try:
        configs = list(tfds.builder_cls(dataset).builder_configs)
    except ValueError:
        return f"knows no dataset {dataset!r}."
    if config in configs or not configs:
        return "cannot build it: " + str(error).rpartition('": ')[2]
    # Names such as 20230601.de; there are thousands.
    group = config.partition(".")[0]
    known = [c.partition(".")[2] for c in configs if c.startswith(f"{group}.")]
    if known:
        return f"knows no {config!r}; after '{group}.' it knows {', '.join(sorted(known))}."
    groups = sorted({c.partition(".")[0] for c in configs})
    return f"knows no {config!r}; it knows {', '.join(groups)}."
