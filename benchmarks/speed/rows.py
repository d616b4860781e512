"""Measured ratios: one row each, their tables, and their comparison with a kept base."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fewstep.core.errors import UserError
from fewstep.runtime.files import rewrite

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """A ratio or a count that does not depend on the machine.

    Args:
        part: the file that measures it.
        name: what it is of, with its sizes.
        low: lower quartile of the rounds; `high` the upper one.
        rounds: number of measurements.
        goal: what it should reach; None if it is only watched.
        more_is_better: otherwise less is.
        tolerance: relative change for the worse that a comparison allows.
    """

    part: str
    name: str
    value: float
    low: float
    high: float
    rounds: int
    goal: float | None = None
    more_is_better: bool = False
    tolerance: float = 0.3

    @staticmethod
    def of(part: str, name: str, values: list[float], **about: Any) -> Row:
        """Median and quartiles of the rounds."""
        return Row(part, name, *quartiles(values), len(values), **about)

    @property
    def misses(self) -> bool:
        """Whether the goal is missed, to the digits that the table shows."""
        if self.goal is None:
            return False
        value = round(self.value, 2)
        return value < self.goal if self.more_is_better else value > self.goal

    def worse_than(self, base: Row) -> bool:
        """Whether it is worse than a kept row by more than that one allows."""
        if self.more_is_better:
            return self.value < base.value * (1 - base.tolerance)
        return self.value > base.value * (1 + base.tolerance)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return middle, low, high


def interleaved(calls: Mapping[str, Callable[[], float]], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """What each call returns in each round; their order changes from round to round, after one to warm up.

    So a machine whose speed drifts, or whose caches others use, does so for all of them.
    """
    rng, values = random.Random(seed), {name: list[float]() for name in calls}
    for number in range(rounds + 1):
        for name in rng.sample(list(calls), len(calls)):
            value = calls[name]()
            if number:
                values[name].append(value)
    return values


def paired(values: Iterable[float], base: Iterable[float]) -> list[float]:
    """Ratios of each round."""
    return [a / b for a, b in zip(values, base, strict=True)]


def table(rows: Iterable[Row]) -> str:
    """Rows as Markdown; a missed goal is bold."""
    lines = ["| part | what | value | quartiles | n | goal |", "|---|---|---:|---|---:|---:|"]
    for row in rows:
        value = f"**{row.value:.2f}**" if row.misses else f"{row.value:.2f}"
        sign = "at least " if row.more_is_better else ""
        goal = "" if row.goal is None else f"{sign}{row.goal:g}"
        between = f"{row.low:.2f} to {row.high:.2f}" if row.low != row.high else ""
        lines.append(f"| {row.part} | {row.name} | {value} | {between} | {row.rounds} | {goal} |")
    return "\n".join(lines) + "\n"


def write(file: Path, rows: Iterable[Row], about: Mapping[str, Any]) -> None:
    """Rows, and where they were measured, as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rewrite(file, json.dumps({"about": dict(about), "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def read(file: Path) -> tuple[list[Row], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [Row(**row) for row in content["rows"]], content["about"]
    except OSError as error:
        raise UserError(f"--compare: cannot read '{file}': {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--compare: '{file}' is damaged ({type(error).__name__}); measure it again") from None


def compare(rows: Iterable[Row], base: Iterable[Row], parts: Iterable[str]) -> tuple[str, bool]:
    """A table of rows beside those of a base, and whether none is worse than allowed or missing.

    Args:
        parts: those that were measured; rows of other parts are not missed.
    """
    measured, measured_parts = {(row.part, row.name): row for row in rows}, set(parts)
    lines = ["| part | what | base | now | allowed | verdict |", "|---|---|---:|---:|---:|---|"]
    good = True
    for before in base:
        if before.part not in measured_parts:
            continue
        row = measured.pop((before.part, before.name), None)
        verdict = "missing" if row is None else "worse" if row.worse_than(before) else "within"
        good &= verdict == "within"
        now = "" if row is None else f"{row.value:.2f}"
        allowed = f"{'-' if before.more_is_better else '+'}{before.tolerance:.0%}"
        lines.append(f"| {before.part} | {before.name} | {before.value:.2f} | {now} | {allowed} | {verdict} |")
    lines += [f"| {row.part} | {row.name} | | {row.value:.2f} | | new |" for row in measured.values()]
    return "\n".join(lines) + "\n", good
