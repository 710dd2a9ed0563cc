"""The flags of each platform: known to the installed jaxlib, and behind what the user has set."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks.step.rounds import ALLOCATORS
from tests.commands.harness import ROOT

SCRIPT = "launch/environment.sh"
PRINT = "import json, os; print(json.dumps(dict(os.environ)))"
COMPUTE = "import jax; print(jax.jit(lambda x: x + 1)(1.0))"
# Only libtpu knows what is in LIBTPU_INIT_ARGS; it reads them when a topology is asked for.
TOPOLOGY = """
from jax.experimental import topologies
topologies.get_topology_desc("v5e:2x2", "tpu")
print(2.0)
"""
FLAGS = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}


def sourced(platform: str, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Python after the script was sourced, by a shell as strict as can be."""
    shell = f'source {SCRIPT} {platform}; exec "$0" -c "$1"'
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell, sys.executable, command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
    )


def environment(platform: str, **variables: str) -> dict[str, str]:
    """What a program sees."""
    done = sourced(platform, PRINT, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("platform", ["gpu", "tpu", "cpu"])
def test_every_flag_is_known(platform: str) -> None:
    command = TOPOLOGY if platform == "tpu" and importlib.util.find_spec("libtpu") else COMPUTE
    # Without a TPU, and beside other processes that have loaded libtpu.
    done = sourced(platform, command, TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "2.0"


def test_a_flag_that_is_not_known_would_have_been_found() -> None:
    done = sourced("gpu", COMPUTE, XLA_FLAGS="--xla_gpu_enable_what_is_not_there=true")
    assert done.returncode != 0
    assert "xla_gpu_enable_what_is_not_there" in done.stderr


@pytest.mark.parametrize("platform", FLAGS)
def test_flags_of_the_user_stay_and_win(platform: str) -> None:
    variable = FLAGS[platform]
    ours = environment(platform)[variable].split()
    assert len(ours) > 3 and len({flag.split("=")[0] for flag in ours}) == len(ours)
    name = ours[1].split("=")[0]
    own = f"{name}=17 --xla_other {ours[0].split('=')[0]}"
    expected = [*own.split(), *ours[2:]]
    assert environment(platform, **{variable: own})[variable].split() == expected
    # Given twice, nothing is added twice.
    assert environment(platform, **{variable: " ".join(ours)})[variable].split() == ours


def test_variables_of_the_user_win() -> None:
    asked = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}
    assert asked.items() <= environment("cpu", **asked).items()
    # What a benchmark says of this allocator holds for who sources the script.
    assert ALLOCATORS["huge"].items() <= environment("cpu").items()
    assert environment("gpu")["XLA_CLIENT_MEM_FRACTION"] == "0.9"
    # JAX refuses both names at a time.
    old = environment("gpu", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert "XLA_CLIENT_MEM_FRACTION" not in old


@pytest.mark.parametrize("arguments", [[], ["gpus"]])
def test_another_platform_is_refused_and_nothing_is_left_behind(arguments: list[str]) -> None:
    run = subprocess.run(["bash", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "usage: source launch/environment.sh gpu|tpu|cpu\n")
    shell = f"source {SCRIPT} {' '.join(arguments) or 'none'} || echo refused; declare -F"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "refused\n"
