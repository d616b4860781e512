"""Every registered objective keeps its contract."""

from __future__ import annotations

import pytest

from fewstep.objectives.base import OBJECTIVES
from fewstep.testing.objectives import check_objective


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_objective_conforms(name: str) -> None:
    check_objective(name)
