"""Every registered objective keeps its contract."""

from __future__ import annotations

from typing import Any

import pytest

from fewstep.objectives.base import OBJECTIVES
from fewstep.testing.objectives import check_objective

SMALL: dict[str, dict[str, Any]] = {"rectified": {"pairs": 64, "teacher_steps": 4}, "shared_noise": {"groups": 3}}
"""Settings of objectives whose defaults take a minute before the first step, or do not fit the small sample."""


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_objective_conforms(name: str) -> None:
    check_objective({"type": name, **SMALL.get(name, {})})


def test_dmmd_conforms_with_noise_at_the_logits() -> None:
    """It trains, resumes exactly, and its gradient reaches the projection."""
    noise = {"type": "stable", "alpha": 0.7, "numbers": 3, "top_k": 2, "beside": "gaussian"}
    check_objective("dmmd", processes=("masked",), sections={"noise_input": noise})


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_dmmd_conforms_with_all_that_comes_before_the_game(updates: str) -> None:
    """A resume in the middle of the phases is exact."""
    config = {
        "type": "dmmd",
        "updates": updates,
        "k": {"from": 1, "to": 4, "over": 0.5},
        "warmup": {"share": 0.25, "groups": 3},
        "auxiliary_first": 0.25,
        "student_ramp": 0.2,
        "below_end": 0.3,
    }
    check_objective(config, processes=("masked",), steps=8, sections={"noise_input": "stable"})
