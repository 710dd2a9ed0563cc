"""Reading the text of compiled programs, on a program written by hand and on a compiled loop."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqrecipes.training.programs import Array, arrays, collectives

HLO = """\
HloModule m, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %r = bf16[8,4]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  ROOT %inner = (s32[], f32[2]) while(%t), condition=%test, body=%deep, \
backend_config={"known_trip_count":{"n":"5"}}
}

%deep (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %g = (f32[2]{0}, /*index=1*/s32[3]{0}) all-gather(%x, %y), dimensions={0}
}

ENTRY %main (p: f32[8,4]) -> f32[] {
  %start = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
  %loop = (s32[], bf16[8,4]) while(%t), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %e = pred[] compare(%done, %done), direction=EQ
}
"""


def test_loops_multiply_and_asynchronous_pairs_count_once() -> None:
    listed = collectives(HLO)
    found = {each.kind + str(each.times): each for each in listed}
    assert set(found) == {"all-reduce3", "all-gather15", "all-gather1"}
    assert len(listed) == 3
    assert found["all-reduce3"].nbytes == 3 * 2 * 8 * 4
    assert found["all-gather15"].arrays == (Array("f32", (2,)), Array("s32", (3,)))
    assert found["all-gather15"].nbytes == 15 * (2 * 4 + 3 * 4)
    assert found["all-gather1"].nbytes == 8 * 4


def test_a_loop_of_unknown_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="body of main"):
        collectives(HLO.replace('"known_trip_count":{"n":"3"}', ""))


def test_arrays_have_types_and_shapes() -> None:
    assert arrays("f32[8,4]{1,0} pred[] u8[3] bf16[2] f8e4m3fn[7] x[9]") == {
        Array("f32", (8, 4)),
        Array("pred", ()),
        Array("u8", (3,)),
        Array("bf16", (2,)),
        Array("f8e4m3fn", (7,)),
    }
    sizes = {"f32": 4, "pred": 1, "u8": 1, "bf16": 2, "f8e4m3fn": 1, "s64": 8}
    assert {name: Array(name, (3, 2)).nbytes for name in sizes} == {
        name: 6 * size for name, size in sizes.items()
    }


def test_a_compiled_loop() -> None:
    mesh = Mesh(jax.devices()[:2], ("x",))
    split = NamedSharding(mesh, PartitionSpec("x"))

    @functools.partial(
        jax.jit, in_shardings=split, out_shardings=NamedSharding(mesh, PartitionSpec())
    )
    def repeated(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 6, lambda _, y: jnp.sin(y) * jnp.sum(x * y[0], 0), jnp.ones(4))

    text = repeated.lower(jax.ShapeDtypeStruct((8, 4), jnp.float32)).compile().as_text()
    (found,) = collectives(text)
    assert (found.kind, found.times, found.nbytes) == ("all-reduce", 6, 6 * 4 * 4)
