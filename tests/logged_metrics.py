"""Metrics that a run logged, without those that measure the machine: what repetitions are compared by."""

from __future__ import annotations

import json
from pathlib import Path

MACHINE = {"seconds", "tokens_per_second", "stall_seconds", "peak_memory_mb"}
"""Keys of `metrics.jsonl` that differ from one repetition to the next."""


def logged(file: Path) -> list[dict[str, float]]:
    """Lines of a `metrics.jsonl`, each without its `MACHINE` keys."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MACHINE} for line in lines]


def as_then(line: dict[str, float], then: dict[str, float]) -> dict[str, float]:
    """A line with the quantities of an older version alone; those that came later are diagnostics by bins of time."""
    assert all("/log_ratio/" in key for key in line.keys() - then.keys())
    return {key: line[key] for key in then}
