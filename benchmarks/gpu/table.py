"""One Markdown table of all cases, with the goals beside those that they are about, and the goals themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sampling_speed
import training_speed
from networks import MODES
from records import Entry, Records


@dataclass(frozen=True)
class Goal:
    """A goal, what was measured of it and whether it is met; None for both if nothing was."""

    name: str
    measured: str | None
    met: bool | None

    @property
    def verdict(self) -> str:
        return {None: "not measured", True: "met", False: "missed"}[self.met]


def goals(records: Records) -> list[Goal]:
    """The goals of speed on a GPU; nothing is measured of them in the short form."""
    best = {work: _best(records, work) for work in ("denoising", "dmmd")}
    return [
        _at_least("teacher's MFU", best["denoising"], 0.45),
        _at_least("D-MMD's MFU", best["dmmd"], 0.42),
        _ratio(records),
        _sampling(records),
    ]


def _values(records: Records, part: str, case: str) -> dict[str, Any] | None:
    """Numbers of a case that was measured on a GPU."""
    entry = records.entry(part, case)
    return entry["values"] if entry and entry["state"] == "done" and not records.environment["short"] else None


def _training(records: Records, work: str, mode: str) -> dict[str, Any] | None:
    return _values(records, "training", training_speed.name(training_speed.LARGE, work, mode))


def mfu(records: Records, values: dict[str, Any]) -> float | None:
    """Model FLOPs by time over the peak, or None if the peak was not measured."""
    peak = records.entry("training", training_speed.PEAK)
    if not peak or peak["state"] != "done":
        return None
    return float(values["flops"] / (values["ms"] / 1e3) / peak["values"]["flops"])


def _best(records: Records, work: str) -> tuple[float, str] | None:
    """Highest MFU of the large network, and its mode of compilation."""
    found = [(mode, _training(records, work, mode)) for mode in MODES]
    shares = [(share, mode) for mode, values in found if values and (share := mfu(records, values)) is not None]
    return max(shares, default=None)


def _at_least(name: str, best: tuple[float, str] | None, limit: float) -> Goal:
    name = f"{name} at least {limit:.0%} ({training_speed.LARGE})"
    return Goal(name, best and f"{best[0]:.1%} with compile {best[1]}", best and best[0] >= limit)


def _ratio(records: Records) -> Goal:
    name, ratios = f"D-MMD step / denoising step at most 1.8 ({training_speed.LARGE})", []
    for mode in MODES:
        pair = [_training(records, work, mode) for work in ("dmmd", "denoising")]
        if pair[0] and pair[1] and pair[0]["batch"] == pair[1]["batch"]:
            ratios.append((pair[0]["ms"] / pair[1]["ms"], mode))
    if not ratios:
        return Goal(name, None, None)
    text = ", ".join(f"{ratio:.2f} with compile {mode}" for ratio, mode in ratios)
    return Goal(name, text, ratios[-1][0] <= 1.8)


def _sampling(records: Records) -> Goal:
    name, worst = "sampling step / forward pass at most 1.1 with CUDA graphs", {}
    for process in ("masked", "uniform"):
        values = _values(records, "sampling", sampling_speed.name(process, "trunk"))
        if values:
            worst[process] = max(values["ratios"].values())
    text = ", ".join(f"{process} {ratio:.2f}" for process, ratio in worst.items())
    return Goal(name, text or None, max(worst.values()) <= 1.1 if worst else None)


def remark(records: Records, part: str, entry: Entry) -> str:
    """The last cell of a case: whether a check holds, MFU of a training."""
    if entry["state"] != "done":
        return entry["state"]
    if "holds" in entry["values"]:
        return "holds" if entry["values"]["holds"] else "DOES NOT HOLD"
    measured = part == "training" and "ms" in entry["values"] and not records.environment["short"]
    share = mfu(records, entry["values"]) if measured else None
    return "" if share is None else f"MFU {share:.1%}"


def markdown(records: Records, parts: Sequence[str]) -> str:
    """The page: where it was measured, and the table."""
    facts = records.environment
    commits = {entry["commit"] or "unknown" for entries in records.parts.values() for entry in entries.values()}
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "xformers", "python"))
    lines = [
        "# Measured on a GPU" + (": the short form, whose numbers mean nothing" if facts["short"] else ""),
        "",
        f"{facts['hardware']}, driver {facts['driver'] or 'none'}, CUDA {facts['cuda'] or 'none'}, {versions}, "
        f"commit {', '.join(sorted(commits))}, {facts['date']}.",
        "",
        "| part | case | result | |",
        "| --- | --- | --- | --- |",
    ]
    for part in parts:
        for case, entry in records.parts.get(part, {}).items():
            lines.append(f"| {part} | {case} | {entry['text'].replace('|', '/')} | {remark(records, part, entry)} |")
    lines += [f"| goal | {goal.name} | {goal.measured or ''} | {goal.verdict} |" for goal in goals(records)]
    return "\n".join(lines) + "\n"


def failures(records: Records) -> list[str]:
    """Cases that failed, and checks that do not hold."""
    return [
        f"{part}, {case}"
        for part, entries in records.parts.items()
        for case, entry in entries.items()
        if entry["state"] == "failed" or not entry["values"].get("holds", True)
    ]
