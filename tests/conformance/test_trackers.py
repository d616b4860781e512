"""Every registered tracker keeps its contract, without a network; those whose package is missing are skipped."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
import torch

from fewstep.core.component import ComponentConfig
from fewstep.testing import check_tracker
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

OFFLINE = {"wandb": {"mode": "offline"}}
"""Settings without which a tracker asks for a network."""


@pytest.mark.parametrize("name", TRACKERS.names())
def test_it_keeps_the_contract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = TRACKERS.get(name).cls.package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs the package {package}, which is not installed")
    monkeypatch.chdir(tmp_path)
    quiet = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
    for variable, value in {"TRACKIO_DIR": str(tmp_path / "trackio"), **quiet}.items():
        monkeypatch.setenv(variable, value)
    check_tracker({"type": name, **OFFLINE.get(name, {})})


def test_the_check_finds_a_draw_of_torch() -> None:
    with TRACKERS.snapshot():

        @TRACKERS.register("broken")
        class Broken(Tracker):
            class Config(ComponentConfig):
                type: Literal["broken"] = "broken"

            def begin(self, run: TrackedRun) -> None:
                torch.rand(1)

            def numbers(self, values: Mapping[str, float], step: int) -> None: ...

            def end(self, state: str) -> None: ...

        with pytest.raises(AssertionError, match="draws from torch's global generator"):
            check_tracker("broken")
