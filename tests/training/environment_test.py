"""Settings of JAX that would change numbers are refused by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from seqrecipes import evaluate, generate
from seqrecipes.errors import UserError
from seqrecipes.training import environment


@contextlib.contextmanager
def set_to(name: str, value: Any) -> Iterator[None]:
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_threefry_partitionable", False),
        ("jax_random_seed_offset", 1),
        ("jax_default_matmul_precision", "highest"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_numpy_rank_promotion", "raise"),
    ],
)
def test_what_would_change_numbers_is_refused(name: str, value: Any) -> None:
    environment.check()
    with set_to(name, value), pytest.raises(UserError, match=name.upper()):
        environment.check()


@pytest.mark.parametrize("arguments", [[evaluate], [generate, f"--input={os.devnull}"]])
def test_so_it_is_where_a_checkpoint_is_used(
    capsys: Any, tmp_path: Any, arguments: list[Any]
) -> None:
    command, *flags = arguments
    with set_to("jax_default_matmul_precision", "highest"):
        assert command.main([f"--checkpoint={tmp_path}", *flags]) == 2
    assert "JAX_DEFAULT_MATMUL_PRECISION" in capsys.readouterr().err
