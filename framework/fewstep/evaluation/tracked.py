"""New values of an evaluation in the trackers of the run that was evaluated."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fewstep.evaluation.rows import EvaluatedRow
from fewstep.evaluation.target import Target
from fewstep.trackers.base import TRACKERS, TrackedRun
from fewstep.trackers.tracking import Tracking


def track_rows(target: Target, rows: Sequence[EvaluatedRow]) -> None:
    """Record rows as `evaluate/METRIC/steps-8`, at the step of the weights that were evaluated.

    A run may be another person's, so that trackers that send values elsewhere get them on request only.
    """
    source = target.source
    if not rows or source.exported is not None or source.path != source.run.path:
        return
    trackers = [c for c in source.recipe.trackers if target.track or not TRACKERS.get(c.type).cls.sends]
    if not trackers:
        return
    try:
        run = TrackedRun(source.recipe.name, source.run.path, source.run.identity(), None, {})
    except OSError:  # a folder that cannot be written; `store_rows` has said so
        return
    tracking = Tracking(trackers, run, _warn, "the values are in the run's folder")
    usual = source.recipe.sampler.model_dump(mode="json")
    for row in rows:
        sampler = "" if row.sampler == usual else f"{(row.sampler or usual)['type']}-"
        values = {f"evaluate/{name}/{sampler}steps-{row.steps}": value for name, value in row.metrics.items()}
        tracking.numbers(values, source.step)
    tracking.end("finished")


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)
