"""The room that needs torch and transformers: left out, and said, where they are not installed.

With SEQRECIPES_REQUIRE_HF=1 their absence is an error.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from pathlib import Path

import pytest

# A class of our own is copied into this folder before it is imported; keep it out of the home.
_modules = tempfile.TemporaryDirectory(prefix="seqrecipes-hf-")
os.environ["HF_MODULES_CACHE"] = _modules.name
os.environ["HF_HUB_OFFLINE"] = "1"

# Of models this small threads take more time than they save, and two workers share the processors.
os.environ["OMP_NUM_THREADS"] = "1"

missing = []
for name in ("torch", "transformers"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("SEQRECIPES_REQUIRE_HF") == "1":
            raise
        missing.append(f"{name} ({error})")
collect_ignore_glob = ["*_test.py"] if missing else []
# transformers' own tests are in its source package (`make test-hf` fetches it).
SOURCE = "SEQRECIPES_TRANSFORMERS_SOURCE"
if not missing and SOURCE not in os.environ:
    if os.environ.get("SEQRECIPES_REQUIRE_HF") == "1":
        raise pytest.UsageError(f"{SOURCE} has to name the unpacked source package of transformers")
    missing.append(f"the source package of transformers ({SOURCE})")
    collect_ignore_glob = ["library_model_test.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marks of transformers' tests, which are strict here."""
    for file in Path(os.environ.get(SOURCE, os.devnull)).glob("tests/**/*.py"):
        for mark in set(re.findall(r"\bmark\.(\w+)", file.read_text("utf-8"))):
            config.addinivalue_line("markers", f"{mark}: of transformers' tests")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing:
        terminalreporter.write_line(f"left out of tests/hf, not installed: {', '.join(missing)}")
