"""Platforms that tests of fused attention pretend to have."""

from __future__ import annotations

import functools

import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from seqrecipes.models import attention


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The TPU kernel where there is none."""
    interpreted = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha", interpreted)
    monkeypatch.setattr(attention, "platform_in_use", lambda: "tpu")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's attention for tracing and lowering alone, with no GPU and no cuDNN to ask."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(attention, "platform_in_use", lambda: "gpu")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda _: False)
