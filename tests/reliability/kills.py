"""Kills small runs at random moments, starts them again, and compares them with undisturbed ones.

    python -m tests.reliability.kills --kills=200

Every start is a copy of this process, which has imported all libraries and never asked for devices:
a start takes a second. Half of the kills come at any time, half are aimed at something that the
command does. What a finished run holds must be what an undisturbed run holds (`scenes.digest`).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.reliability.scenes import DATA, ENCODER, SCENES, Scene, differences, digest

ROOT = pathlib.Path(__file__).parents[2]
MOST_KILLS = 8  # of one run, which may end then
_POLL = 0.002
# What runs do, by the functions that do it: (module, class or "", function).
ACTIVITIES = {
    "vocabulary": ("seqrecipes.data.vocabulary", "", "train_vocabulary"),
    "packing": ("seqrecipes.data.preparation", "", "prepare_blocks"),
    "claim": ("seqrecipes.runner", "Run", "_claim"),
    "checkpoint": ("seqrecipes.training.checkpoints", "Checkpoints", "wait"),
    "restoring": ("seqrecipes.training.checkpoints", "Checkpoints", "restore"),
    "validation": ("seqrecipes.training.loop", "", "evaluator"),
    "evaluation": ("seqrecipes.downstream.scoring", "Scorer", "evaluate"),
    "probes": ("seqrecipes.downstream.probing", "Probes", "look"),
    "export": ("seqrecipes.hugging_face", "", "export_checkpoint"),
    "warm start": ("seqrecipes.conversion.warm_start", "", "from_checkpoint"),
    "scoring": ("seqrecipes.downstream.scoring", "", "score_languages"),
    "clearing": ("seqrecipes.downstream.runs", "", "_clear"),
    "jobs": ("seqrecipes.downstream.jobs", "", "run"),
}
_NAMES = ["start and end", *ACTIVITIES]


class Forked:
    """Stands for subprocess.Popen of `python -m seqrecipes.finetune`: a copy of this process."""

    def __init__(
        self, arguments: Sequence[str], *, stdout: Any, env: Any, preexec_fn: Any, **_: Any
    ):
        self.returncode: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            preexec_fn()
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.environ.update(env)
            _become(lambda: command("finetune")(arguments[3:]), stdout.fileno())

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self._pid, signal.SIGTERM)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(_POLL)


def command(name: str) -> Callable[[Sequence[str]], int]:
    """The main function of a command, with nothing configured yet."""
    import gin

    gin.clear_config()
    from seqrecipes import finetune, protocol, train

    return {"train": train, "finetune": finetune, "protocol": protocol}[name].main


def _become(run: Callable[[], int], output: int) -> None:
    """Ends this process with the status of `run`, whose output goes to a file."""
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = run()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Stage:
    """Where what a process does can be seen by the one that kills it."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    @property
    def now(self) -> str:
        return _NAMES[self._byte[0]]

    def watch(self) -> None:
        """In the process: from now on the functions of `ACTIVITIES` say when they are at work."""
        for number, name in enumerate(_NAMES):
            if name in ACTIVITIES:
                place, function = place_of(name)
                setattr(place, function, self._watched(getattr(place, function), number))

    def _watched(self, function: Any, number: int) -> Any:
        """The same function; one that it makes is at the same work."""

        def watched(*arguments: Any, **named: Any) -> Any:
            before, self._byte[0] = self._byte[0], number
            try:
                result = function(*arguments, **named)
            finally:
                self._byte[0] = before
            return self._watched(result, number) if callable(result) else result

        return watched


def place_of(activity: str) -> tuple[Any, str]:
    """The module or class of an activity's function, and the function's name."""
    module, owner, function = ACTIVITIES[activity]
    place = importlib.import_module(module)
    return getattr(place, owner) if owner else place, function


@dataclasses.dataclass
class Attempt:
    """One start of a command: its status, or None if it was killed; what it did when, and then."""

    status: int | None
    seconds: float
    times: dict[str, float]
    killed_in: str = ""


def start(
    scene: Scene,
    shared: pathlib.Path,
    folder: pathlib.Path,
    *,
    own_programs: bool = False,
    kill: Callable[[str, float, dict[str, float]], bool] = lambda *_: False,
    whole_group: bool = True,
) -> Attempt:
    """Starts the command and kills it when `kill(activity, seconds, times)` says so."""
    log = folder.with_suffix(".log")
    stage, begin = Stage(), time.monotonic()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if (pid := os.fork()) == 0:
        os.setsid()
        os.chdir(ROOT)
        if own_programs:
            import jax

            jax.config.update("jax_compilation_cache_dir", None)
        from seqrecipes.downstream import jobs

        # Its own alone: others start real commands.
        jobs.subprocess = types.SimpleNamespace(Popen=Forked, STDOUT=subprocess.STDOUT)
        stage.watch()
        _become(lambda: command(scene.name)(scene.arguments(shared, folder)), output)
    os.close(output)
    times: dict[str, float] = collections.defaultdict(float)
    last = begin
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            now = time.monotonic()
            times[stage.now] += now - last
            last = now
            if ended:
                return Attempt(os.waitstatus_to_exitcode(status), now - begin, times)
            if kill(stage.now, now - begin, times):
                where = stage.now
                os.killpg(pid, signal.SIGKILL) if whole_group else os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Attempt(None, now - begin, times, where)
            time.sleep(_POLL)
    finally:
        _gone(pid)


def _gone(group: int) -> None:
    """Waits for what a killed process left running: it ends by itself."""
    end = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < end:
            os.killpg(group, 0)
            time.sleep(_POLL)
        os.killpg(group, signal.SIGKILL)
        raise AssertionError(f"children of {group} outlived it by a minute")


def in_a_child(run: Callable[[], Any]) -> Any:
    """What a function gives that needs JAX, which this process must not start."""
    with tempfile.TemporaryFile() as result:
        if (pid := os.fork()) == 0:

            def write() -> int:
                result.write(json.dumps(run()).encode())
                result.flush()
                return 0

            _become(write, 2)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, f"status {status}"
        result.seek(0)
        return json.loads(result.read())


def prepare(shared: pathlib.Path) -> None:
    """Files of a labelled set, and a checkpoint to fine-tune."""
    from tests.downstream import tiny_runs

    tiny_runs.write_udpos(shared / DATA)

    def checkpoint() -> None:
        from seqrecipes.data.corpora.sample import SampleCorpus
        from seqrecipes.data.vocabulary import sample_texts, train_vocabulary

        texts = sample_texts(SampleCorpus())
        model = train_vocabulary(texts, 1_000, shared / "vocabulary").read_bytes()
        tiny_runs.checkpoint(shared / ENCODER, model)

    in_a_child(checkpoint)


class Trial:
    """Kills runs of a scene until there were enough of them.

    Args:
      scene: what is run.
      shared: what all of them read.
      chance: where random moments come from.
    """

    def __init__(self, scene: Scene, shared: pathlib.Path, chance: random.Random):
        self.scene, self._shared, self._chance = scene, shared, chance
        self.kills: collections.Counter[str] = collections.Counter()
        self.runs = 0
        self.failures: list[str] = []
        whole = shared / f"{scene.name}-undisturbed"
        # Once to fill the cache of compiled programs, which all later starts find.
        for _ in range(2):
            shutil.rmtree(whole, ignore_errors=True)
            done = start(scene, shared, whole)
            assert done.status == 0, whole.with_suffix(".log").read_text("utf-8", "replace")
        self._seconds, self._times = done.seconds, done.times
        self._expected = in_a_child(lambda: digest(whole))
        print(f"{scene.name}: {done.seconds:.1f} s undisturbed", flush=True)

    def run(self, kills: int) -> None:
        """One run, killed so often at most, to its end."""
        folder = self._shared / f"{self.scene.name}-{self.runs}"
        own_programs = self.runs % 5 == 4
        done = 0
        while True:
            most = min(kills, MOST_KILLS)
            attempt = start(
                self.scene,
                self._shared,
                folder,
                own_programs=own_programs,
                kill=self._moment(done) if done < most else lambda *_: False,
                whole_group=self._chance.random() < 0.5,
            )
            if attempt.status is not None:
                break
            done += 1
            self.kills[attempt.killed_in] += 1
        self.runs += 1
        log = folder.with_suffix(".log")
        if attempt.status != 0:
            text = log.read_text("utf-8", "replace")[-2000:]
            self.failures.append(f"{folder.name} ended with {attempt.status}:\n{text}")
            return
        found = in_a_child(lambda: digest(folder))
        if differing := differences(found, self._expected):
            self.failures.append(f"{folder.name} differs: {', '.join(differing)}")
            return
        shutil.rmtree(folder)
        log.unlink()

    def _moment(self, done: int) -> Callable[[str, float, dict[str, float]], bool]:
        """When to kill a run that was killed so often: at any time, or while something is done.

        Aims are at what was hit least so far. It may not come any more in this run: then at about
        the end of what is left.
        """
        left = self._seconds / (1 + done)
        if self._chance.random() < 0.5:
            at = self._chance.uniform(0, 1.2 * left)
            return lambda activity, seconds, times: seconds > at
        fewest = min(self.kills[activity] for activity in self.scene.activities)
        aim = self._chance.choice([a for a in self.scene.activities if self.kills[a] == fewest])
        within = self._chance.uniform(0, self._times.get(aim, 0.05))
        return lambda activity, seconds, times: (
            seconds > left or (activity == aim and times[aim] >= within)
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 1 if a run did not come out as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--scenes", default=",".join(SCENES), help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="of the moments; default: another every time")
    flags = parser.parse_args(argv)
    seed = random.randrange(2**32) if flags.seed is None else flags.seed
    print(f"--seed={seed}", flush=True)
    with _ready() as shared:
        trials = [
            Trial(SCENES[name], shared, random.Random(f"{seed} {name}"))
            for name in flags.scenes.split(",")
        ]
        begin = time.monotonic()
        while (left := flags.kills - sum(trial.kills.total() for trial in trials)) > 0:
            # Three of four to training, which has the most that can be interrupted.
            trial = min(trials, key=lambda one: one.kills.total() * (1 if one is trials[0] else 3))
            trial.run(left)
            print(f"\r{flags.kills - left} of {flags.kills} kills", end="", file=sys.stderr)
            if trial.failures:
                print(trial.failures[-1], flush=True)
        return _report(trials, time.monotonic() - begin)


@contextlib.contextmanager
def _ready() -> Iterator[pathlib.Path]:
    """A folder for all that is written, with libraries imported and the environment set."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(temporary, "programs"))
        from seqrecipes import configuration

        configuration.quiet_tensorflow()
        _import_all()
        prepare(pathlib.Path(temporary))
        yield pathlib.Path(temporary)


def _import_all() -> None:
    """All libraries, for all copies of this process."""
    import pkgutil

    import seqrecipes

    for module in pkgutil.walk_packages(seqrecipes.__path__, "seqrecipes."):
        with contextlib.suppress(ImportError):  # of libraries that are not installed everywhere
            importlib.import_module(module.name)


def _report(trials: Sequence[Trial], seconds: float) -> int:
    failures = [failure for trial in trials for failure in trial.failures]
    for trial in trials:
        where = ", ".join(f"{name} {count}" for name, count in trial.kills.most_common())
        print(f"{trial.scene.name}: {trial.kills.total()} kills of {trial.runs} runs ({where})")
    kills, runs = (sum(n) for n in zip(*((t.kills.total(), t.runs) for t in trials), strict=True))
    print(
        f"{kills} kills, {runs} runs, {runs - len(failures)} as if undisturbed, "
        f"{len(failures)} not; {seconds / 60:.1f} minutes"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
