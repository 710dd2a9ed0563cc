"""Results that nothing measured."""

from __future__ import annotations

from typing import Any

from benchmarks.step.rounds import Measured


def measured(case: str, program: str, seconds: list[float], **changes: Any) -> Measured:
    about = {
        "device": "cpu",
        "remark": "float32",
        "parameters": 60_500_000,
        "trained": 40_000_000,
        "losses": [10.375, 10.25],
    }
    settings: dict[str, Any] = {
        "case": case,
        "program": program,
        "tokens": 4096,
        "seconds": seconds,
        "first": [20.0, 30.0],
        "faults": [1000.0, 3000.0],
        "memory": 3 * 2**29,
        "flops": {"encoder": 2e10, "head": 1e10},
        "product": 1e11,
        "about": about,
    }
    return Measured(**settings | changes)
