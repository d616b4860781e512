"""Every registered process: marginals, posterior, prior, and the step back, against enumeration."""

from __future__ import annotations

import pytest

from fewstep.processes.base import PROCESSES
from fewstep.schedules.base import SCHEDULES
from fewstep.testing.processes import check_process

PAIRS = [(process, schedule) for process in PROCESSES.names() for schedule in SCHEDULES.names()]


@pytest.mark.parametrize(("process", "schedule"), PAIRS)
def test_process_conforms(process: str, schedule: str) -> None:
    check_process({"type": process, "schedule": schedule})
