"""Preparing text on many workers with Beam.

Each shard goes to files of its own, so that it keeps its order and a shard that is finished is not
done again. What comes out is byte for byte what `preparation.prepare_blocks` writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import gin
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath
from tqdm import tqdm

from seqrecipes.data.corpora import contents
from seqrecipes.data.preparation import Preparation, Shard, remember_text
from seqrecipes.data.registry import import_tasks
from seqrecipes.data.tasks import get_task
from seqrecipes.errors import UserError

log = logging.getLogger(__name__)

_LONGEST = 300  # characters of a runner's own message


@dataclasses.dataclass(frozen=True)
class WriteShard:
    """Prepares and writes one shard, in whatever process that is; gives its statistics.

    Checksums that are `known` are not made again, but compared with what is read.

    Attributes:
      name: of the task.
      tasks: module that registers the tasks; the workers import it.
      config: gin's configuration.
      folder: of the preparation.
      identity: of the preparation.
      known: checksums of the text.
    """

    name: str
    tasks: str
    config: str
    folder: str
    identity: Mapping[str, Any]
    known: Mapping[contents.Version, str]

    def __call__(self, shard: Shard) -> Mapping[str, Any]:
        """Writes a shard.

        Raises:
          UserError: the text or the vocabulary is another one than where the pipeline was made.
        """
        return _preparation(self).write(shard)


_prepared: dict[str, Preparation] = {}


def _preparation(work: WriteShard) -> Preparation:
    """The preparation in a worker, which knows nothing at first."""
    if work.folder not in _prepared:
        contents.remember(work.known)
        import_tasks(work.tasks, "--tasks")
        with gin.unlock_config():
            gin.parse_config(work.config)
        task = get_task(*work.name.split(".")).sized(work.identity["payload"])
        for field, here in (
            ("corpus_fingerprint", task.corpus.fingerprint()),
            ("vocabulary_checksum", task.vocabulary.checksum),
        ):
            if here != work.identity[field]:
                remedy = f"differs from {work.identity[field]}; a worker reads others."
                raise UserError(field, here, remedy)
        _prepared[work.folder] = Preparation(task, epath.Path(work.folder), work.identity)
    return _prepared[work.folder]


def pipeline_options(runner: str, options: Sequence[str]) -> PipelineOptions:
    """Beam's options, checked.

    Args:
      runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ...
      options: `name=value`, or `name` of a switch.

    Raises:
      UserError: an option that Beam does not know, or a value that it does not take.
    """
    # What goes wrong in a worker comes out of the pipeline. Its log would tell it again, with the
    # text that it was at.
    quiet = ["default_sdk_harness_log_level=CRITICAL"]
    parsed = PipelineOptions(
        [f"--runner={runner}", *(f"--{option}" for option in [*quiet, *options])]
    )
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
    if missing:
        work = WriteShard(
            preparation.task.name,
            tasks,
            gin.config_str(),
            str(preparation.folder),
            preparation.identity,
            contents.remembered(),
        )
        # Some runners (Dask's) want an end.
        shards = pipeline | beam.Create(missing) | beam.Reshuffle()
        _ = shards | "write" >> beam.Map(work) | "count" >> beam.combiners.Count.Globally()
    if dry_run:
        pipeline.to_runner_api()
        return
    preparation.folder.mkdir(parents=True, exist_ok=True)
    remember_text(preparation.task, preparation.folder.parent)
    if missing:
        with _Progress(preparation, missing) as progress:
            try:
                pipeline.run().wait_until_finish()
            except (Exception, KeyboardInterrupt) as error:
                if progress.stalled or progress.gone:
                    raise progress.error() from None
                raise _cause(error, options.get_all_options()["runner"]) from None
    preparation.finish()


def _cause(error: BaseException, runner: str) -> BaseException:
    """The user's error, or Ctrl-C, inside of what Beam makes of it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, UserError | KeyboardInterrupt):
            return inner
        inner = inner.__cause__ or inner.__context__
    # From another process errors come as text.
    if match := re.search(r"UserError: (.+?)(?: \[while running|\\n|\n|$)", str(error)):
        field, _, rest = match[1].partition(" = ")
        return UserError(field, _Bare(rest.partition(": ")[0]), rest.partition(": ")[2])
    if runner in ("DirectRunner", "PrismRunner", "BundleBasedDirectRunner"):
        return error  # with its traceback: it is of this program
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return UserError(
        "--runner",
        runner,
        f"failed: {type(error).__name__}: {lines[0][:_LONGEST]} (see its own log)",
    )


class _Bare(str):
    """A value that is spelled out already."""

    def __repr__(self) -> str:
        return str(self)


class _Progress:
    """A bar of finished shards, from a look at the folder now and then.

    Where nothing in the folder changes for `_STALLED` seconds, a worker is gone and its runner
    waits for it for ever: the pipeline is interrupted as by Ctrl-C, and `stalled` is set. So it is
    soon after a worker process of this machine ended, of which a thread of Beam's tells (`gone`).
    """

    _EVERY = 1.0  # seconds
    _STALLED = 900.0
    _GRACE = 10.0  # for Beam to find out itself that a worker is gone

    def __init__(self, preparation: Preparation, missing: Sequence[Shard]):
        self._preparation, self._total = preparation, len(missing)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")
        self.stalled = False
        self.gone = ""
        self._hook = threading.excepthook

    def __enter__(self) -> _Progress:
        self._hook, threading.excepthook = threading.excepthook, self._of_thread
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        threading.excepthook = self._hook

    def _of_thread(self, what: threading.ExceptHookArgs) -> None:
        """Keeps what a thread of Beam's says of a worker, and leaves out what follows from it."""
        if "Worker subprocess exited" in str(what.exc_value):
            self.gone = str(what.exc_value)
        elif "rpc" not in type(what.exc_value).__name__.lower():
            self._hook(what)

    def error(self) -> UserError:
        """What to say of a pipeline that was interrupted because a worker is gone."""
        problem = (
            f"{self.gone} (killed, or out of memory?)"
            if self.gone
            else f"nothing was written for {self._STALLED / 60:g} minutes, so a worker must be gone"
        )
        remedy = f"{problem}; the same command does what is left"
        return UserError("--output", str(self._preparation.folder), remedy)

    def _watch(self) -> None:
        seen, since = self._state(), time.monotonic()
        with tqdm(
            desc="preparing", unit=" shards", total=self._total, disable=not sys.stderr.isatty()
        ) as bar:
            while not self._done.wait(self._EVERY):
                bar.update(self._total - len(self._preparation.missing()) - bar.n)
                if (now := self._state()) != seen:
                    seen, since = now, time.monotonic()
                elif time.monotonic() - since > (self._GRACE if self.gone else self._STALLED):
                    self.stalled = True
                    # A signal, which wakes what waits; `_thread.interrupt_main` does not. And again
                    # in a while: Python drops what is raised in a callback of its collector.
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    self._done.wait(self._GRACE)
            bar.update(self._total - len(self._preparation.missing()) - bar.n)

    def _state(self) -> dict[str, int]:
        """What changes while anybody works: files, begun ones too, and their sizes."""
        sizes = {}
        for path in self._preparation.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # renamed by now
                sizes[path.name] = path.stat().length
        return sizes
