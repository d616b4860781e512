"""Every registered sampler keeps its contract."""

from __future__ import annotations

import pytest

from fewstep.samplers.base import SAMPLERS
from fewstep.testing import check_sampler


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_sampler_conforms(name: str) -> None:
    check_sampler(name)
