"""Preparing text on many workers: seqio's Beam pipeline, with the shards kept apart.

`seqio.beam_utils.PreprocessTask` runs a task up to its cache, shard by shard. Here each shard goes
to files of its own, so that it keeps its order and a shard that is finished is not done again.
What comes out is byte for byte what `preparation.prepare_blocks` writes.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import gin
import seqio
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath
from seqio import beam_utils
from tqdm import tqdm

from seqrecipes.data.preparation import Preparation, Shard
from seqrecipes.data.tasks import get_task, import_tasks
from seqrecipes.errors import UserError

log = logging.getLogger(__name__)


class WriteShards(beam_utils.PreprocessTask):
    """Prepares and writes shards of a split; a PCollection of their statistics.

    Args:
      preparation: the whole of it.
      split: 'train' or 'validation'.
      places: of the wanted shards in `CorpusSource.list_shards`.
      tasks: module that registers the tasks; the workers import it.
    """

    def __init__(self, preparation: Preparation, split: str, places: Sequence[int], tasks: str):
        task = preparation.task
        self._folder, self._identity = str(preparation.folder), dict(preparation.identity)
        self._places = list(places)
        setup = functools.partial(
            set_up_worker, task.name, tasks, gin.config_str(), preparation.identity
        )
        super().__init__(task, split, setup_fn=setup)

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection:
        """See `beam.PTransform.expand`."""
        shards = [self.shards[place] for place in self._places]
        return pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(self._write)

    def _write(self, shard: tuple[int, str]) -> Mapping[str, Any]:
        self._setup_fn()
        task = seqio.TaskRegistry.get(self._task_name)
        preparation = Preparation(task, epath.Path(self._folder), self._identity)
        task.source.error = None
        records = (
            {name: tensor.numpy() for name, tensor in record.items()}
            for record in self._emit_examples(shard)
        )
        try:
            return preparation.write((self._split, shard[0]), records)
        except tf.errors.OpError as error:
            raise (task.source.error or error) from None


def set_up_worker(name: str, tasks: str, config: str, identity: Mapping[str, Any]) -> None:
    """Makes the task `name` known in a process that knows nothing yet.

    Raises:
      UserError: the text or the vocabulary is another one than where the pipeline was made.
    """
    if name in seqio.TaskRegistry.names():
        return
    import_tasks(tasks, "--tasks")
    with gin.unlock_config():
        gin.parse_config(config)
    corpus, objective, _ = name.split(".")
    task = get_task(corpus, objective).sized(name, identity["payload"])
    for field, here in (
        ("corpus_fingerprint", task.source.corpus.fingerprint()),
        ("vocabulary_checksum", task.vocabulary.checksum),
    ):
        if here != identity[field]:
            raise UserError(field, here, f"differs from {identity[field]}; a worker reads others.")
    seqio.TaskRegistry.add_provider(name, task)


def pipeline_options(runner: str, options: Sequence[str]) -> PipelineOptions:
    """Beam's options, checked.

    Args:
      runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ...
      options: `name=value`, or `name` of a switch.

    Raises:
      UserError: an option that Beam does not know, or a value that it does not take.
    """
    parsed = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])
    try:
        known = parsed.get_all_options()
    except SystemExit as error:
        raise UserError("--pipeline_option", list(options), "has a value Beam refuses.") from error
    for option in options:
        if (name := option.partition("=")[0]) not in known:
            raise UserError("--pipeline_option", name, "Beam knows no such option.")
    return parsed


def run(preparation: Preparation, options: PipelineOptions, tasks: str, dry_run: bool) -> None:
    """Writes the shards that are missing, and the manifest.

    Args:
      preparation: what is wanted.
      options: of the pipeline.
      tasks: module that registers the tasks.
      dry_run: builds the pipeline as it would be sent to the runner, and does no more.

    Raises:
      UserError: the text or the vocabulary cannot be used, or the runner does not exist.
    """
    missing = preparation.missing()
    if not missing and preparation.complete:
        return
    try:
        pipeline = beam.Pipeline(options=options)
    except (ValueError, ImportError) as error:
        problem = " ".join(str(error).split())
        raise UserError("--runner", options.get_all_options()["runner"], problem) from error
    for split in dict.fromkeys(split for split, _ in missing):
        places = [place for its_split, place in missing if its_split == split]
        _ = pipeline | split >> WriteShards(preparation, split, places, tasks)
    if dry_run:
        pipeline.to_runner_api()
        return
    preparation.folder.mkdir(parents=True, exist_ok=True)
    if missing:
        with _Progress(preparation, missing):
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:
                raise (_cause(error) or error) from None
    preparation.finish()


def _cause(error: BaseException | None) -> UserError | KeyboardInterrupt | None:
    """The user's error, or Ctrl-C, inside of what Beam makes of it."""
    while error is not None:
        if isinstance(error, UserError | KeyboardInterrupt):
            return error
        error = error.__cause__ or error.__context__
    return None


class _Progress:
    """A bar of finished shards, from a look at the folder now and then."""

    _EVERY = 1.0  # seconds

    def __init__(self, preparation: Preparation, missing: Sequence[Shard]):
        self._preparation, self._total = preparation, len(missing)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with tqdm(
            desc="preparing", unit=" shards", total=self._total, disable=not sys.stderr.isatty()
        ) as bar:
            while not self._done.wait(self._EVERY):
                bar.update(self._total - len(self._preparation.missing()) - bar.n)
            bar.update(self._total - len(self._preparation.missing()) - bar.n)
