"""The results of the data benchmark as a table and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from benchmarks.loading import RAW
from benchmarks.suite import Results
from benchmarks.timing import Measurement
from seqrecipes.data.objectives import OBJECTIVES

# Group -> how many times the rate of its fastest peer is wanted.
GOALS = {"mlm": 1.5, "span_drop": 3.0, "span_mask": 3.0, "span_corruption": 3.0}
_MIB = 1 << 20


def report(results: Results, about: dict[str, Any]) -> str:
    """Everything, for a terminal."""
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v)
    core = "not pinned" if about["pinned_core"] is None else f"core {about['pinned_core']}"
    repetitions = len(results.measurements[0].rates)
    lines = [
        f"{about['processor']}, {core}, one process; Python {about['python']}, {versions}",
        results.material,
        f"million tokens of text per second of one core: median of {repetitions} turns "
        "(lowest-highest); busy: share of the time that the core worked for it",
        "",
        f"{'':<44}{'median':>8}  {'spread':<15}{'busy':>5}{'ours/this':>11}",
    ]
    for group in _groups(results):
        lines += [group, *_group(results, group), ""]
    lines.append("microseconds an example, by part")
    for name, parts in results.stages.items():
        each = ", ".join(f"{part} {time:.1f}" for part, time in parts.items())
        lines.append(f"  {name:<30} {sum(parts.values()):.1f}: {each}")
    lines += ["", "memory of a loader (MiB)"]
    for name, memory in results.memory.items():
        grown = "not known here"
        if memory.growth is not None and memory.late_growth is not None:
            grown = (
                f"grew by {memory.growth / _MIB:.1f} over {memory.batches} batches, second half "
                f"{memory.late_growth / _MIB:+.1f}"
            )
        lines.append(
            f"  {name:<30} batch {memory.batch / _MIB:.2f}, "
            f"{memory.bound / _MIB:.1f} alive at most; {grown}"
        )
    lines += ["", "from a folder on disk to the first batch"]
    lines += [f"  at example {e:<26,} {s * 1e3:.1f} ms" for e, s in results.seek.items()]
    return "\n".join(lines)


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for a file."""
    return {
        "material": results.material,
        "measurements": [m.as_json() for m in results.measurements],
        "missing": [dataclasses.asdict(m) for m in results.missing],
        "goals": {
            group: {"ratio": ratio(results, group), "goal": goal} for group, goal in GOALS.items()
        },
        "memory": {name: dataclasses.asdict(m) for name, m in results.memory.items()},
        "stages_microseconds": results.stages,
        "seek_seconds": {str(example): seconds for example, seconds in results.seek.items()},
    }


def ratio(results: Results, group: str) -> float | None:
    """Our rate over that of the fastest peer; None where either is missing."""
    ours = _ours(results, group)
    peers = [m.rate for m in _measured(results, group) if m.case.role == "peer"]
    return ours.rate / max(peers) if ours and peers else None


def _groups(results: Results) -> list[str]:
    groups = {m.group for m in results.missing} | {m.case.group for m in results.measurements}
    return [group for group in (*OBJECTIVES, RAW) if group in groups]


def _group(results: Results, group: str) -> list[str]:
    ours, lines = _ours(results, group), []
    for m in _measured(results, group):
        spread = f"{min(m.rates) / 1e6:.2f}-{max(m.rates) / 1e6:.2f}"
        versus = f"{ours.rate / m.rate:.2f}x" if ours and ours is not m else ""
        lines.append(
            f"  {m.case.name:<42}{m.rate / 1e6:>8.2f}  {spread:<15}"
            f"{sum(m.busy) / len(m.busy):>5.0%}{versus:>11}"
        )
    lines += [f"  {m.name:<42}{'-':>8}  {m.reason}" for m in results.missing if m.group == group]
    if group in GOALS:
        reached = ratio(results, group)
        if reached is None:
            lines.append(f"  goal {GOALS[group]}x the fastest peer: no peer was measured")
        else:
            met = "met" if reached >= GOALS[group] else "NOT met"
            lines.append(f"  goal {GOALS[group]}x the fastest peer, is {reached:.2f}x: {met}")
    return lines


def _measured(results: Results, group: str) -> list[Measurement]:
    return [m for m in results.measurements if m.case.group == group]


def _ours(results: Results, group: str) -> Measurement | None:
    return next((m for m in _measured(results, group) if m.case.role == "ours"), None)
