"""Every registered objective keeps its contract."""

from __future__ import annotations

from typing import Any

import pytest

from fewstep.objectives.base import OBJECTIVES
from fewstep.testing.objectives import check_objective

SMALL: dict[str, dict[str, Any]] = {"rectified": {"pairs": 64, "teacher_steps": 4}}
"""Settings of objectives whose defaults take a minute before the first step."""


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_objective_conforms(name: str) -> None:
    check_objective({"type": name, **SMALL.get(name, {})})


def test_dmmd_conforms_with_noise_at_the_logits() -> None:
    """It trains, resumes exactly, and its gradient reaches the projection."""
    noise = {"type": "stable", "alpha": 0.7, "numbers": 3, "top_k": 2, "beside": "gaussian"}
    check_objective("dmmd", processes=("masked",), sections={"noise_input": noise})
