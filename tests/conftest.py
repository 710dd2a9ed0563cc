"""Eight CPU devices for the whole session, so that meshes are tested on any machine; a vocabulary.

A test sees two of them, unless its module says `DEVICES = 8`: what is shown on two alike, such as
checkpoints, takes a quarter longer on eight.

The variables are read when JAX starts, hence here, before any test imports it. Child processes
inherit them; a test that wants another number of devices sets `XLA_FLAGS` for its child.

Compiled programs are kept in .jax_cache, for the other tests and for the next session: JAX finds
them by what they compute, the flags and its version. A test of the run's own cache says so with
`no_shared_programs`.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest

FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Tests compile much and compute little: LLVM's optimiser is not worth its time. The passes over
    # the graph, and with them sharding and cost analysis, are not concerned.
    "--xla_backend_optimization_level": "0",
}
ROOT = pathlib.Path(__file__).parents[1]
# XLA aborts on flags that it does not know: of these only the locked versions are known to do.
LOCKED = (ROOT / "requirements.lock").read_text("utf-8").split()
if f"jaxlib=={importlib.metadata.version('jaxlib')}" in LOCKED:
    # The older of the CPU's two code generators: a training step compiles in a third of the time.
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
    FLAGS["--xla_cpu_parallel_codegen_split_count"] = "1"

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if flag.partition("=")[0] not in FLAGS
        ),
        *(f"{name}={value}" for name, value in FLAGS.items()),
    ]
)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax_cache"))
# However small and quick to compile: tests repeat the same small programs.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Nobody reads which line of ours an operation of a program comes from.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# As from a terminal: what is started in the background may be told to ignore Ctrl-C, and what it
# starts in turn too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tracing makes many objects and few cycles: the usual 700 cost a quarter of its time.
gc.set_threshold(100_000, 10, 10)


@pytest.fixture(scope="module", autouse=True)
def devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """The first of all, as many as the module says."""
    import jax

    count, everywhere = getattr(request.module, "DEVICES", 2), jax.devices

    def first(backend: str | None = None) -> list[jax.Device]:
        return everywhere(backend) if backend else everywhere()[:count]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "devices", first)
        yield


@pytest.fixture
def no_shared_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As for a user without a cache of their own: in this process and in its children."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    shared = jax.config.values["jax_compilation_cache_dir"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", shared)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small one, trained on the sample."""
    from seqrecipes.data.corpora.sample import SampleCorpus
    from seqrecipes.data.vocabulary import sample_texts, train_vocabulary

    folder = tmp_path_factory.mktemp("vocabulary")
    return train_vocabulary(sample_texts(SampleCorpus()), 2000, folder, sentinels=5).read_bytes()
