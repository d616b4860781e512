"""What a plot shows: the first expectation of its suite that was measured, as a title and as a bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fewstep.bench.report.canvas import GREY
from fewstep.bench.results.results import ClaimResult, Results, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VERDICTS = {"better": "better than", "level": "level with", "worse": "worse than"}


class Finding(NamedTuple):
    """An expectation of the headline value, and its two sides."""

    claim: ClaimResult
    ours: Summary
    theirs: Summary

    def title(self, results: Results) -> str:
        """`D-MMD student with 8 evaluations: level with Teacher with 32`."""
        names = [case.label if (case := results.case(side.case)) else side.case for side in (self.ours, self.theirs)]
        ours, theirs = (f"{side.nfe:g}" for side in (self.ours, self.theirs))
        plural = "" if self.ours.nfe == 1 else "s"
        verdict = _VERDICTS[str(self.claim.verdict)]
        return f"{names[0]} with {ours} evaluation{plural}: {verdict} {names[1]} with {theirs}"


def finding(results: Results) -> Finding | None:
    """The first expectation of the headline value that was measured; None without one."""
    sides = {(s.case, s.steps): s for s in results.summary if s.nfe}
    for claim in results.claims:
        ours, theirs = sides.get((claim.case, claim.steps)), sides.get((claim.against, claim.at))
        if claim.value == results.headline and claim.verdict and ours and theirs:
            return Finding(claim, ours, theirs)
    return None


def draw_bar(axes: Axes, results: Results, found: Finding) -> None:
    """A bar of one standard error at the height of their point, from ours to theirs: how many evaluations are saved.

    Nothing is drawn if the expectation does not hold, or saves none.
    """
    ours, theirs = found.ours.nfe or 0, found.theirs.nfe or 0
    if not found.claim.holds or theirs <= ours:
        return
    value = found.theirs.values[results.headline]
    error = value.stderr or 0.0
    axes.fill_between([ours, theirs], value.mean - error, value.mean + error, color=GREY, alpha=0.18, linewidth=0)
    axes.plot([ours, theirs], [value.mean] * 2, color=GREY, linewidth=1.2, linestyle=(0, (2, 2)), zorder=2)
    axes.annotate(
        f"{theirs / ours:g}x fewer evaluations",
        (ours**0.3 * theirs**0.7, value.mean),
        xytext=(0, 12),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=GREY,
        bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
