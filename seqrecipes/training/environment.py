"""Settings of JAX that would change a run's numbers are refused.

A run is a function of its recipe alone. JAX has switches, most of them environment variables, that
give other random bits or other arithmetic; a resume under another setting would go on with other
numbers without a word.
"""

from __future__ import annotations

import jax

from seqrecipes.errors import UserError

# {setting: the only value under which numbers are those of the recipe}. The default generator of
# random bits is not among them: `seqrecipes.models.keys` names its own.
FIXED = {
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


def check() -> None:
    """Refuses settings of JAX under which a recipe would give other numbers.

    Raises:
      UserError: names the environment variable.
    """
    for name, value in FIXED.items():
        if (found := jax.config.values[name]) != value:
            raise UserError(
                name.upper(), found, f"changes a run's numbers; unset it, so that it is {value!r}"
            )
