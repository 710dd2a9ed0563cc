"""Which implementation of attention computes, what is refused, and what `remat` keeps of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import attention, build, parameter_shapes
from seqrecipes.training.step import loss_sums
from tests.models import tiny


def model_gradient(config: Any, dropping: bool) -> Any:
    """Traces the gradient of a model's loss; nothing is computed."""
    model, batch = build(config), tiny.batch(config)
    ids = jnp.arange(3) if dropping else None

    def loss(params: Any) -> Any:
        return loss_sums(model, params, batch, ids, jax.random.key(0), 4).loss

    return jax.jit(jax.grad(loss)).trace(parameter_shapes(config))


def primitives(jaxpr: Any) -> Iterator[str]:
    """Of all operations of a program, those of the programs inside it as often as they are used."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from primitives(inner)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(("remat", "forward"), [("none", 3), ("dots", 6), ("context", 3)])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_context_computes_no_cudnn_attention_twice(
    remat: str, forward: int, scan_layers: bool
) -> None:
    config = tiny.config(
        encoder_layers=1,
        decoder_layers=1,
        dtype="bfloat16",
        attention="cudnn",
        remat=remat,
        scan_layers=scan_layers,
    )
    names = list(primitives(model_gradient(config, dropping=False).jaxpr.jaxpr))
    assert names.count("dot_product_attention_fwd_wrapper") == forward
    assert names.count("dot_product_attention_bwd_wrapper") == 3


@pytest.mark.usefixtures("on_tpu")
def test_context_computes_no_tpu_kernel_twice() -> None:
    def loops(remat: str) -> int:
        config = tiny.config(
            encoder_layers=1, decoder_layers=0, attention="tpu", remat=remat, scan_layers=False
        )
        compiled = model_gradient(config, dropping=False).lower().compile()
        return len(re.findall(r" while\(", compiled.as_text()))

    # The interpreter makes a loop of every kernel that is left in the compiled program.
    plain, dots, context = map(loops, ("none", "dots", "context"))
    assert context == plain < dots


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ({"attention": "cudnn", "attention_dropout": 0.1}, "set attention_dropout to 0 or"),
        ({"attention": "tpu", "attention_dropout": 0.1}, "only 'xla' does so exactly"),
        ({"attention": "cudnn", "dtype": "float32"}, "takes bfloat16, not float32: set dtype"),
        ({"attention": "tpu", "dtype": "float64"}, "bfloat16 or float32, not float64"),
        ({"attention": "cudnn", "num_heads": 4}, "multiple of 8 up to 128, not of 4"),
        ({"attention": "cudnn", "num_heads": 1, "hidden_size": 136}, "up to 128, not of 136"),
        ({"attention": "tpu", "attention_fusion": "decoder_states"}, "set attention to 'auto'"),
    ],
)
def test_what_a_named_kernel_cannot_do_is_refused_by_the_configuration(
    overrides: Any, remedy: str
) -> None:
    named = {"dtype": "bfloat16"} | overrides
    with pytest.raises(UserError) as caught:
        tiny.config(**named)
    assert (caught.value.field, caught.value.value) == ("attention", overrides["attention"])
    assert remedy in caught.value.remedy
    tiny.config(**named | {"attention": "xla"})
    tiny.config(**named | {"attention": "auto"})


@pytest.mark.parametrize(("kernel", "needs"), [("cudnn", "NVIDIA GPUs"), ("tpu", "TPUs")])
def test_a_named_kernel_is_refused_where_it_does_not_run(kernel: str, needs: str) -> None:
    config = tiny.config(attention=kernel, dtype="bfloat16")
    # Not yet, though: shapes and parameters are the same everywhere.
    parameter_shapes(config)
    with pytest.raises(UserError, match=rf"attention = '{kernel}': runs on {needs}, not on cpu"):
        model_gradient(config, dropping=False)


def test_the_platform_is_that_of_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert attention.platform_in_use() == "gpu"
    partitioning = Partitioning()
    seen = []
    with partitioning.on(partitioning.mesh()):
        jax.jit(lambda: seen.append(attention.platform_in_use())).trace()
    assert seen == ["cpu"]


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    attention._log_once.cache_clear()
    caplog.set_level(logging.INFO, attention.log.name)
    yield lambda: [record.getMessage() for record in caplog.records]
    attention._log_once.cache_clear()


def test_auto_on_a_cpu_is_plain_and_says_so_once(messages: Any) -> None:
    model_gradient(tiny.config(), dropping=False)
    model_gradient(tiny.config(), dropping=False)
    assert messages() == ["attention on cpu: xla (no fused kernel runs there)"]


@pytest.mark.usefixtures("on_tpu")
def test_auto_drops_weights_plainly_and_fuses_where_it_drops_none(messages: Any) -> None:
    config = tiny.config(attention_dropout=0.1)
    used = [
        "pallas_call" in primitives(model_gradient(config, dropping).jaxpr.jaxpr)
        for dropping in (True, False)
    ]
    assert used == [False, True]
    first, second = messages()
    assert first.startswith("attention on tpu: xla (tpu does not drop attention weights")
    assert second == "attention on tpu: tpu (fused, and exact here)"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("dtype", "head_size", "chosen"),
    [("bfloat16", 64, "cudnn"), ("float32", 64, "xla"), ("bfloat16", 4, "xla")],
)
def test_auto_on_a_gpu_takes_cudnn_where_it_can(dtype: str, head_size: int, chosen: str) -> None:
    assert attention.choose("auto", dtype, head_size, False) == chosen


@pytest.mark.usefixtures("on_tpu")
def test_fusion_by_the_decoders_states_fuses_self_attention_alone() -> None:
    config = tiny.config(attention_fusion="decoder_states", encoder_layers=1, decoder_layers=1)
    names = list(primitives(model_gradient(config, dropping=False).jaxpr.jaxpr))
    assert names.count("pallas_call") == 2 * 3
