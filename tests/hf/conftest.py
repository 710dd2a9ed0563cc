"""The room that needs torch and transformers: left out, and said, where they are not installed.

With SEQRECIPES_REQUIRE_HF=1 their absence is an error.
"""

from __future__ import annotations

import importlib
import os
import tempfile

import pytest

# A class of our own is copied into this folder before it is imported; keep it out of the home.
_modules = tempfile.TemporaryDirectory(prefix="seqrecipes-hf-")
os.environ["HF_MODULES_CACHE"] = _modules.name
os.environ["HF_HUB_OFFLINE"] = "1"

missing = []
for name in ("torch", "transformers"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("SEQRECIPES_REQUIRE_HF") == "1":
            raise
        missing.append(f"{name} ({error})")
collect_ignore_glob = ["*_test.py"] if missing else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if missing:
        terminalreporter.write_line(f"tests/hf left out, not installed: {', '.join(missing)}")
