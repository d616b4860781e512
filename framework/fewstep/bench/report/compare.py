"""Results against earlier ones of the same suite: what became better, what became worse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fewstep.bench.report.tables import ARROWS, Grid
from fewstep.bench.results.results import Estimate, Results, Summary
from fewstep.bench.results.summary import compare, shown
from fewstep.bench.suites.suite import Suite
from fewstep.core.errors import UserError

_SAME = 1e-6
"""Relative difference that counts as none where there is neither a tolerance nor a spread."""

Outcome = Literal["better", "level", "worse", "gone", "new", "unknown", "beside"]
"""`beside`: not compared, but shown with the value before it, which is not to be seen alone."""


@dataclass(frozen=True)
class Change:
    """One value of a case at one number of steps, then and now; None where it was not measured."""

    case: str
    steps: int | None
    value: str
    before: Estimate | None
    now: Estimate | None
    allowed: float | None
    """How much worse it may be; None if nothing says."""
    outcome: Outcome

    @property
    def text(self) -> str:
        """`student at 4 steps: ngram_tv 0.31, was 0.25 (worse by 0.06, allowed: 0.02)`."""
        where = f"{self.case} at {self.steps} steps: {self.value}"
        if self.now is None or self.before is None:
            return f"{where} was {shown(self.before) if self.before else 'not measured'}, and is missing now"
        apart = abs(self.now.mean - self.before.mean)
        return (
            f"{where} {shown(self.now)}, was {shown(self.before)} (worse by {apart:.3g}, allowed: {self.allowed:.3g})"
        )


@dataclass(frozen=True)
class Comparison:
    """All values that are better one way."""

    changes: tuple[Change, ...]
    directions: dict[str, str]

    @property
    def regressions(self) -> list[str]:
        """What is worse than allowed, or was not measured any more."""
        return [change.text for change in self.changes if change.outcome in ("worse", "gone")]

    def markdown(self, base: str) -> str:
        """What changed, in a sentence and a table."""
        counts = {outcome: sum(change.outcome == outcome for change in self.changes) for outcome in _WORDS}
        parts = [f"{count} {_WORDS[outcome]}" for outcome, count in counts.items() if count]
        header = ["case", "steps", "value", "before", "now", "difference", "allowed", ""]
        grid = Grid(header, [self._row(change) for change in self.changes], words=3)
        return f"Compared with `{base}`: {', '.join(parts) or 'nothing in common'}.\n\n{grid.markdown()}\n"

    def _row(self, change: Change) -> list[str]:
        before, now = change.before, change.now
        difference = f"{now.mean - before.mean:+.4g}" if now and before else ""
        return [
            change.case,
            str(change.steps),
            change.value + ARROWS[self.directions[change.value]],
            shown(before) if before else "",
            shown(now) if now else "",
            difference,
            "" if change.allowed is None else f"{change.allowed:.3g}",
            change.outcome,
        ]


_WORDS: dict[Outcome, str] = {
    "worse": "worse",
    "gone": "missing now",
    "better": "better",
    "level": "level",
    "new": "new",
    "unknown": "not judged (one seed and no tolerance)",
}


def check_comparable(base: Results, suite: Suite, data: str, quick: bool) -> None:
    """Whether a run of `suite` can be compared with earlier results; asked before anything is trained.

    Raises:
        UserError: it cannot, and why.
    """
    if base.suite.name != suite.name or base.suite.quick != quick:
        kind = "a quick run" if base.suite.quick else "a full run"
        raise UserError(
            f"--compare: the earlier results are {kind} of suite '{base.suite.name}'; numbers do not compare"
        )
    if base.suite.data is not None and base.suite.data != data:
        raise UserError("--compare: the earlier results are about other data (another fingerprint)")
    if base.suite.samples != suite.samples:
        raise UserError(
            f"--compare: the earlier results have {base.suite.samples} samples in each row, this run {suite.samples}"
        )


def compare_results(now: Results, base: Results, tolerances: dict[str, float]) -> Comparison:
    """Compare every value that is better one way, of every case and number of steps.

    Real samples are left out, and cases that are skipped on this machine.

    A value may be worse by its tolerance if it has one, else by two standard errors of the difference. Where neither is
    known, as with one seed, it is level if it is the same, and otherwise not judged.
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
