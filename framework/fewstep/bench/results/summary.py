"""Means over seeds, and the expectations of a suite compared with them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from fewstep.bench.results.results import ClaimResult, Estimate, FrontierPoint, Row, Summary, Verdict
from fewstep.bench.suites.suite import ClaimSpec

_MARGIN = 2.0
"""Standard errors that a difference must exceed to count."""

_VERDICT_TEXT: dict[Verdict, str] = {
    "better": "better",
    "level": "no difference beyond two standard errors",
    "worse": "worse",
}


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of at least one value."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Estimate(mean=statistics.fmean(values), stderr=spread, n=len(values))


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """Join rows that differ only in their seeds, in order of first appearance. Leaves out rows of sweeps.

    Each of several seeds of training counts once, with its mean over sampling seeds.
    """
    groups: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        if row.sweep is None:
            groups.setdefault((row.case, row.steps), []).append(row)
    return [_summary(case, steps, group) for (case, steps), group in groups.items()]


def summarise_sweeps(rows: Iterable[Row]) -> list[FrontierPoint]:
    """Join the rows of sweeps that differ only in their seeds."""
    groups: dict[tuple[str, int | None, tuple[tuple[str, float], ...]], list[Row]] = {}
    for row in rows:
        if row.sweep is not None:
            groups.setdefault((row.case, row.steps, tuple(row.sweep.items())), []).append(row)
    return [
        FrontierPoint(**_summary(case, steps, group).model_dump(), sweep=dict(sweep))
        for (case, steps, sweep), group in groups.items()
    ]


def _summary(case: str, steps: int | None, rows: Sequence[Row]) -> Summary:
    seeds = dict.fromkeys(row.train_seed for row in rows if row.train_seed is not None)
    trainings = {seed: _means([row for row in rows if row.train_seed == seed]) for seed in seeds}
    single = len(trainings) < 2
    samples = [row.values for row in rows] if single else list(trainings.values())
    return Summary(
        case=case,
        steps=steps,
        nfe=_mean(row.nfe for row in rows),
        passes=_mean(row.passes for row in rows),
        values={name: estimate([values[name] for values in samples]) for name in rows[0].values},
        trainings={} if single else trainings,
    )


def _mean(numbers: Iterable[float | None]) -> int | float | None:
    """An integer if the mean is one, else two decimal places; None if a number is not known."""
    known = list(numbers)
    if None in known:
        return None
    mean = statistics.fmean(number for number in known if number is not None)
    return int(mean) if mean.is_integer() else round(mean, 2)


def _means(rows: Sequence[Row]) -> dict[str, float]:
    return {name: statistics.fmean(row.values[name] for row in rows) for name in rows[0].values}


def judge(
    claim: ClaimSpec, value: str, direction: str, summaries: Sequence[Summary], beside: Mapping[str, str] | None = None
) -> ClaimResult:
    """Compare the two sides of an expectation; `beside` names the value that stands beside each value.

    The difference of the means is compared with two standard errors of it, 2 sqrt(se_1^2 + se_2^2). The standard
    error of a side with one seed is unknown and counts as 0. Sides with the same several seeds of training are
    compared seed by seed, since the errors of a student and its teacher are correlated.
    """
    by_side = {(s.case, s.steps): s for s in summaries}
    ours, theirs = (by_side.get(side) for side in claim.sides)
    result = {**claim.model_dump(), "at": claim.sides[1][1], "value": value}
    if ours is None or theirs is None:
        text = f"{_at(*claim.sides[0])} against {_at(*claim.sides[1])}: not measured in this run."
        empty = dict.fromkeys(("ours", "theirs", "difference", "stderr", "verdict", "holds"))
        return ClaimResult.model_validate({**result, **empty, "text": text})
    a, b = ours.values[value], theirs.values[value]
    gap, error = difference(ours, theirs, value)
    verdict = compare(gap, error or 0.0, direction)
    holds = verdict == "better" if claim.expect == "better" else verdict != "worse"
    first, second = (value_text(side.values, value, beside or {}) for side in (ours, theirs))
    sides = f"{_at(ours.case, ours.nfe)}: {value} {first}, {_at(theirs.case, theirs.nfe)}: {second}"
    text = f"{sides}: {_VERDICT_TEXT[verdict]}."
    text += f" Expected {claim.expect.replace('_', ' ')}: {'holds' if holds else 'does NOT hold'}."
    text += " (One seed, so the spread is unknown.)" if error is None else ""
    measured = {"ours": a, "theirs": b, "difference": gap, "stderr": error, "verdict": verdict, "holds": holds}
    return ClaimResult.model_validate({**result, **measured, "text": text})


def compare(gap: float, error: float, direction: str) -> Verdict:
    """Verdict of a difference (ours - theirs) with its standard error."""
    gain = gap if direction == "higher" else -gap
    if gain > _MARGIN * error:
        return "better"
    return "worse" if gain < -_MARGIN * error else "level"


def estimate_text(value: Estimate) -> str:
    """`27.13 ± 0.52`: the error with two digits, the mean with as many decimals; only the mean for an error of 0."""
    if not value.stderr:
        return f"{value.mean:.0f}" if abs(value.mean) >= 1e4 else f"{value.mean:.4g}"
    places = min(8, max(0, 1 - math.floor(math.log10(value.stderr))))
    return f"{value.mean:.{places}f} ± {value.stderr:.{places}f}"


def value_text(values: Mapping[str, Estimate], name: str, beside: Mapping[str, str]) -> str:
    """A value and the value beside it: `27.13 ± 0.52`, or `27.13 ± 0.52 with gen_entropy 2.31`."""
    other = beside.get(name, "")
    text = estimate_text(values[name])
    return f"{text} with {other} {estimate_text(values[other])}" if other in values else text


def difference(ours: Summary, theirs: Summary, value: str) -> tuple[float, float | None]:
    """Ours - theirs and its standard error; None for the error if neither side has one."""
    if ours.trainings and ours.trainings.keys() == theirs.trainings.keys():
        paired = estimate([means[value] - theirs.trainings[seed][value] for seed, means in ours.trainings.items()])
        return paired.mean, paired.stderr
    a, b = ours.values[value], theirs.values[value]
    unknown = a.stderr is None and b.stderr is None
    return a.mean - b.mean, None if unknown else math.hypot(a.stderr or 0.0, b.stderr or 0.0)


def _at(case: str, nfe: float | None) -> str:
    return f"{case} at {nfe} NFE"
