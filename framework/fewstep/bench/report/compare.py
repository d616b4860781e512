"""Results compared with earlier results of the same suite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fewstep.bench.report.tables import ARROWS, Grid
from fewstep.bench.results.results import Estimate, Results, Summary
from fewstep.bench.results.summary import compare, estimate_text
from fewstep.bench.suites.suite import Suite
from fewstep.core.errors import UserError

_SAME = 1e-6
"""Relative difference that counts as none, without a tolerance and without a standard error."""

Outcome = Literal["better", "level", "worse", "gone", "new", "unknown", "beside"]
"""`beside`: not compared; the row shows the value that stands beside the previous one."""


@dataclass(frozen=True)
class Change:
    """One value of a case at one number of steps, before and now; None where it was not measured."""

    case: str
    steps: int | None
    value: str
    before: Estimate | None
    now: Estimate | None
    allowed: float | None
    """Allowed deterioration; None without a tolerance and a standard error."""
    outcome: Outcome

    @property
    def text(self) -> str:
        """`student at 4 steps: ngram_tv 0.31, was 0.25 (worse by 0.06, allowed: 0.02)`."""
        where = f"{self.case} at {self.steps} steps: {self.value}"
        if self.now is None or self.before is None:
            before = estimate_text(self.before) if self.before else "not measured"
            return f"{where} was {before}, and is missing now"
        apart = abs(self.now.mean - self.before.mean)
        change = f"{estimate_text(self.now)}, was {estimate_text(self.before)}"
        return f"{where} {change} (worse by {apart:.3g}, allowed: {self.allowed:.3g})"


@dataclass(frozen=True)
class Comparison:
    """Changes of all values with a better direction."""

    changes: tuple[Change, ...]
    directions: dict[str, str]

    @property
    def regressions(self) -> list[str]:
        """Texts of values that are worse than allowed, or missing now."""
        return [change.text for change in self.changes if change.outcome in ("worse", "gone")]

    def markdown(self, base: str) -> str:
        """The changes as a sentence and a table."""
        counts = {outcome: sum(change.outcome == outcome for change in self.changes) for outcome in _OUTCOME_TEXT}
        parts = [f"{count} {_OUTCOME_TEXT[outcome]}" for outcome, count in counts.items() if count]
        header = ["case", "steps", "value", "before", "now", "difference", "allowed", ""]
        grid = Grid(header, [self._row(change) for change in self.changes], text_columns=3)
        return f"Compared with `{base}`: {', '.join(parts) or 'nothing in common'}.\n\n{grid.markdown()}\n"

    def _row(self, change: Change) -> list[str]:
        before, now = change.before, change.now
        difference = f"{now.mean - before.mean:+.4g}" if now and before else ""
        return [
            change.case,
            str(change.steps),
            change.value + ARROWS[self.directions[change.value]],
            estimate_text(before) if before else "",
            estimate_text(now) if now else "",
            difference,
            "" if change.allowed is None else f"{change.allowed:.3g}",
            change.outcome,
        ]


_OUTCOME_TEXT: dict[Outcome, str] = {
    "worse": "worse",
    "gone": "missing now",
    "better": "better",
    "level": "within the allowed difference",
    "new": "new",
    "unknown": "not judged (one seed and no tolerance)",
}


def check_comparable(base: Results, suite: Suite, data: str, quick: bool) -> None:
    """Check that a run of `suite` compares with earlier results. Called before anything is trained.

    Raises:
        UserError: another suite, other data, or another number of samples.
    """
    if base.suite.name != suite.name or base.suite.quick != quick:
        kind = "a quick run" if base.suite.quick else "a full run"
        raise UserError(
            f"--compare: the earlier results are {kind} of suite '{base.suite.name}'; the numbers are not comparable"
        )
    if base.suite.data is not None and base.suite.data != data:
        raise UserError("--compare: the earlier results are about other data (another fingerprint)")
    if base.suite.samples != suite.samples:
        raise UserError(
            f"--compare: the earlier results have {base.suite.samples} samples in each row, this run {suite.samples}"
        )


def compare_results(now: Results, base: Results, tolerances: dict[str, float]) -> Comparison:
    """Compare all values with a better direction, for every case and number of steps.

    Leaves out real samples, and cases that are skipped on this machine.

    A value may be worse by its tolerance, or by two standard errors of the difference without one. If neither is
    known, as with one seed, an equal value is level and any other is not judged.
    """
    ways = {name: way for name, way in now.directions.items() if way != "info"}
    skipped = {case.case for case in now.skipped}
    ours, theirs = (
        {(s.case, s.steps): s for s in results.summary if s.nfe and s.case not in skipped} for results in (now, base)
    )
    changes = []
    for key in [*theirs, *(key for key in ours if key not in theirs)]:
        sides = (ours.get(key), theirs.get(key))
        for name, way in ways.items():
            changes.append(_change(key, name, way, *sides, tolerances.get(name)))
            other = now.beside.get(name, name)
            if now.directions.get(other) == "info":
                current, before = (side.values.get(other) if side else None for side in sides)
                changes.append(Change(*key, other, before, current, None, "beside"))
    return Comparison(tuple(change for change in changes if change.now or change.before), now.directions)


def _change(
    key: tuple[str, int | None],
    name: str,
    way: str,
    ours: Summary | None,
    theirs: Summary | None,
    tolerance: float | None,
) -> Change:
    before = theirs.values.get(name) if theirs else None
    now = ours.values.get(name) if ours else None
    if before is None or now is None:
        return Change(*key, name, before, now, None, "new" if before is None else "gone")
    difference = now.mean - before.mean
    same = abs(difference) <= _SAME * max(abs(now.mean), abs(before.mean))
    if tolerance is None and (before.stderr is None or now.stderr is None):
        return Change(*key, name, before, now, None, "level" if same else "unknown")
    error = math.hypot(before.stderr or 0.0, now.stderr or 0.0) if tolerance is None else tolerance / 2
    outcome: Outcome = "level" if same else compare(difference, error, way)
    return Change(*key, name, before, now, 2 * error, outcome)
