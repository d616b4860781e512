"""Conformance of trackers."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from fewstep.core.registry import Raw
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker, refuse_missing

SETTINGS: dict[str, str | int | float | bool] = {"name": "checked", "train.steps": 8, "optim.lr": 1e-3, "ema": True}


def check_tracker(config: Raw) -> None:
    """Check that a tracker takes all that trainings give it, and leaves their random numbers alone.

    It begins a training, is stopped, goes on from an earlier step, and gets values of an evaluation; numbers may be
    nan or infinite. Give a configuration that needs no network.

    Raises:
        UserError: its package is not installed.
        AssertionError: a check fails.
    """
    parsed = TRACKERS.parse(config)
    refuse_missing([parsed])
    cls = TRACKERS.get(parsed.type).cls
    assert isinstance(cls.sends, bool), "`sends` says whether values may leave the run's folder"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        before = torch.get_rng_state()
        for start, state in ((0, "stopped"), (2, "finished"), (0, "failed"), (None, "finished")):
            _record(TRACKERS.build(parsed), TrackedRun("checked", folder, "0123456789abcdef", start, SETTINGS), state)
        assert torch.equal(before, torch.get_rng_state()), "it draws from torch's global generator"


def _record(tracker: Tracker, run: TrackedRun, state: str) -> None:
    tracker.begin(run)
    first = run.start or 0
    for step in range(first + 1, first + 4):
        tracker.numbers({"train/loss/student": 1 / step, "optim/student/grad_norm": math.nan}, step)
    tracker.numbers({"train/loss/student": math.inf}, first + 4)
    tracker.text("samples/watch", "one <two> & three\nfour", first + 4)
    tracker.picture("samples/watch", torch.linspace(0, 1, 3 * 6 * 8).reshape(3, 6, 8), first + 4)
    tracker.end(state)
