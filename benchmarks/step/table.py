"""The results of the step benchmark, for a terminal and for a file."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.step.programs import OURS
from benchmarks.step.rounds import Measured
from benchmarks.timing import Missing
from seqrecipes import markdown
from seqrecipes.training import accelerators

_PARTS = ("encoder", "decoder", "head")
_HEADER = (
    "case",
    "program",
    "tokens/s",
    "s a step (quartiles)",
    "utilisation = enc + dec + head",
    "GiB",
    "faults a step",
    "first step, s",
    "ours/this",
)


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
      measured: programs on cases.
      missing: what could not be measured.
      allocator: one of `rounds.ALLOCATORS`.
      warmup: updates before the measured ones of a round.
      steps: measured updates of a round.
      rounds: how many.
    """

    measured: list[Measured]
    missing: list[Missing]
    allocator: str
    warmup: int
    steps: int
    rounds: int


def peak(measured: Sequence[Measured]) -> tuple[float, str]:
    """Operations a second of the device, the same for all programs, and where that is from."""
    kinds = {str(each.about["device"]) for each in measured}
    if len(kinds) == 1 and (known := accelerators.peak(kind := kinds.pop())):
        return known, f"{known / 1e12:,.0f} TFLOP/s of {kind} in bfloat16, as its maker states it"
    best = max(measured, key=lambda each: each.product)
    return best.product, (
        f"{best.product / 1e12:.3f} TFLOP/s, the fastest product of two square matrices seen in "
        f"any process of this run ({best.program})"
    )


def ratio(measured: Sequence[Measured], case: str, program: str) -> float | None:
    """Our tokens a second over another program's; None where either is missing."""
    rates = {each.program: each.rate for each in measured if each.case == case}
    if OURS not in rates or program not in rates:
        return None
    return rates[OURS] / rates[program]


def report(results: Results, about: dict[str, Any]) -> str:
    """Everything, for a terminal."""
    measured = results.measured
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v)
    lines = [
        f"{about['processor']}, {about['cores']} cores; Python {about['python']}, {versions}",
        f"allocator: {results.allocator}, for all alike; {results.rounds} rounds of "
        f"{results.steps} steps after {results.warmup}, each in a fresh process; medians of all",
    ]
    if measured:
        limit, source = peak(measured)
        lines += [
            f"devices: {', '.join(sorted({str(each.about['device']) for each in measured}))}",
            f"utilisation: model FLOPs over time and {source}",
            "",
            markdown.table(
                _HEADER,
                [_row(each, limit, ratio(measured, each.case, each.program)) for each in measured],
            ),
            "",
        ]
        remarks = {f"{each.case}, {each.program}": _remark(each) for each in measured}
        lines += [f"{name}: {remark}" for name, remark in remarks.items()]
    lines += [f"{m.group}, {m.name}: not measured: {m.reason}" for m in results.missing]
    return "\n".join(lines)


def _row(each: Measured, limit: float, versus: float | None) -> list[str]:
    shares = each.utilisation(limit)
    parts = " + ".join(f"{shares[part]:.1%}" if part in shares else "-" for part in _PARTS)
    low, high = each.quartiles
    return [
        each.case,
        each.program,
        f"{each.rate:,.0f}",
        f"{each.step:.3f} ({low:.3f}-{high:.3f})",
        f"{sum(shares.values()):.1%} = {parts}",
        f"{each.memory / 2**30:.2f}",
        f"{statistics.median(each.faults):,.0f}",
        f"{statistics.median(each.first):.1f}",
        "" if versus is None or each.program == OURS else f"{versus:.2f}x",
    ]


def _remark(each: Measured) -> str:
    about = each.about
    return (
        f"{about['parameters'] / 1e6:,.1f} million parameters, {about['trained'] / 1e6:,.1f} "
        f"trained; {about['remark']}; loss {about['losses'][0]:.2f}, then {about['losses'][1]:.2f}"
    )


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for a file."""
    measured = results.measured
    limit = peak(measured) if measured else None
    settings = ("allocator", "rounds", "steps", "warmup")
    return {
        "settings": {name: getattr(results, name) for name in settings},
        "peak": limit and {"operations_per_second": limit[0], "source": limit[1]},
        "measured": [
            dataclasses.asdict(each)
            | {
                "tokens_per_second": each.rate,
                "step_seconds": each.step,
                "quartiles": each.quartiles,
                "utilisation": each.utilisation(limit[0]) if limit else {},
                "ours_over_this": ratio(measured, each.case, each.program),
            }
            for each in measured
        ],
        "missing": [dataclasses.asdict(each) for each in results.missing],
    }
