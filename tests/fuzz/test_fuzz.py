"""Whatever is opened is refused in a sentence or read: no other exception, no hang, no gigabyte, no wrong load."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds import KINDS, Try, outcome

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(params=KINDS)
def attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Try:
    make: Callable[[Path], Try] = KINDS[request.param]
    return make(tmp_path)


def test_nothing_but_refusals(attempt: Try) -> None:
    @settings(max_examples=25, derandomize=True, **COMMON)
    @given(st.randoms(use_true_random=False))
    def check(draw: random.Random) -> None:
        assert outcome(attempt, draw) != "silent"

    check()


@pytest.mark.slow
def test_nothing_but_refusals_at_length(attempt: Try) -> None:
    @settings(max_examples=1000, **COMMON)
    @given(st.randoms(use_true_random=False))
    def check(draw: random.Random) -> None:
        assert outcome(attempt, draw) != "silent"

    check()
