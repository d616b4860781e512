"""Every registered metric keeps its contract."""

from __future__ import annotations

import pytest

from fewstep.metrics.base import METRICS
from fewstep.testing import check_metric


@pytest.mark.parametrize("name", METRICS.names())
def test_metric_conforms(name: str) -> None:
    check_metric(name)
