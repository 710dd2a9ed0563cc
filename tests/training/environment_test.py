"""Settings of JAX that would change numbers are refused by name."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from seqrecipes.errors import UserError
from seqrecipes.training import environment


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
def test_what_would_change_numbers_is_refused(monkeypatch: Any, name: str, value: Any) -> None:
    environment.check()
    before = jax.config.values[name]
    jax.config.update(name, value)
    try:
        with pytest.raises(UserError, match=name.upper()):
            environment.check()
    finally:
        jax.config.update(name, before)
