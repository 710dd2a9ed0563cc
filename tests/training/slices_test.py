"""Names of slices, and leaves cut and put together again."""

from __future__ import annotations

import numpy as np
import pytest

from seqrecipes.training import slices


def test_a_leaf_is_cut_and_joined_in_the_order_of_its_rows() -> None:
    leaves = {"a/kernel": np.arange(24).reshape(12, 2), "a/bias": np.arange(3)}
    names = slices.names("a/kernel", (0, 2, 10, 12))
    assert names == ["a/kernel[0:2]", "a/kernel[2:10]", "a/kernel[10:12]"]
    parts = {name: slices.take(leaves, name) for name in [*reversed(names), "a/bias"]}
    np.testing.assert_array_equal(parts["a/kernel[2:10]"], np.arange(4, 20).reshape(8, 2))
    joined = slices.join(parts)
    assert joined.keys() == leaves.keys()
    np.testing.assert_array_equal(joined["a/kernel"], leaves["a/kernel"])
    assert joined["a/bias"] is leaves["a/bias"]


@pytest.mark.parametrize("name", ["a/kernel", "a/kernel[0:4]", "a/kernel[10:12]"])
def test_rules_see_the_path(name: str) -> None:
    assert slices.path_of(name) == "a/kernel"
