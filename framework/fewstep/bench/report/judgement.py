"""What a report makes of its values: whose may be called the best, and whether a teacher was trained long enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fewstep.bench.results.results import Results, Summary
from fewstep.bench.results.summary import compare, difference, estimate_text
from fewstep.bench.suites.suite import REFERENCE

_FAR = 3.0
"""Ratio of a teacher's distance to that of real samples from which the teacher counts as undertrained."""
_DATA = "_data"
"""End of the names of values that metrics compute of real samples."""


def contestants(results: Results, value: str) -> list[Summary]:
    """Measurements of trained models that may be the best by a value: not those of the model that judges by it."""
    trained = {case.name for case in results.cases if not case.oracle} - {results.judges.get(value)}
    return [summary for summary in results.summary if summary.case in trained and value in summary.values]


def best(summaries: Sequence[Summary], value: str, direction: str) -> Summary:
    """The measurement with the best mean; there is at least one."""
    sign = 1 if direction == "lower" else -1
    return min(summaries, key=lambda summary: sign * summary.values[value].mean)


def leaders(results: Results, value: str) -> list[Summary]:
    """The best measurement of a value, and those that are not significantly worse; none without a competition."""
    direction, entries = results.directions[value], contestants(results, value)
    if direction == "info" or len(entries) < 2:
        return []
    first = best(entries, value, direction)

    def level(entry: Summary) -> bool:
        gap, error = difference(entry, first, value)
        return compare(gap, error or 0.0, direction) != "worse"

    return [entry for entry in entries if entry is first or level(entry)]


def undertrained(results: Results) -> Iterator[str]:
    """A sentence for each teacher that is much farther from the data than real samples are, by the headline."""
    value, real = results.headline, results.find(REFERENCE, None)
    if results.suite.quick or results.direction != "lower" or real is None or value not in real.values:
        return
    floor = real.values[value]
    teachers = {case.teacher for case in results.cases if case.teacher}
    for name in dict.fromkeys(case.name for case in results.cases if case.name in teachers and not case.oracle):
        entries = [entry for entry in contestants(results, value) if entry.case == name]
        if not entries or floor.mean <= 0:
            continue
        nearest = best(entries, value, results.direction).values[value]
        error = math.hypot(nearest.stderr or 0.0, _FAR * (floor.stderr or 0.0))
        if nearest.mean - _FAR * floor.mean > 2 * error:
            yield (
                f"The teacher '{name}' is {nearest.mean / floor.mean:.0f}x as far from the data as real samples "
                f"({value} {estimate_text(nearest)}, {estimate_text(floor)}); train it longer before judging the "
                "student."
            )


def repeated(results: Results) -> set[str]:
    """Values of real samples (`gen_ppl_data`) that the row of real samples has already (`gen_ppl`)."""
    real = results.find(REFERENCE, None)
    shown = set() if real is None else set(real.values)
    names = {name for name, direction in results.directions.items() if direction == "info" and name.endswith(_DATA)}
    stems = {name: name.removesuffix(_DATA) for name in names}
    return {name for name, stem in stems.items() if any(o == stem or o.endswith(f"_{stem}") for o in shown - names)}
