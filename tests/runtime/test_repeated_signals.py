"""Signals that ask a process to end."""

from __future__ import annotations

import signal
import threading

import pytest

from fewstep.runtime import signals
from fewstep.runtime.signals import asked_to_end


@pytest.fixture
def received() -> list[int]:
    """Signals that have had their effect of before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: numbers.append(n)) for number in signals.ENDING}
    yield numbers  # type: ignore[misc]
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_is_handed_on_counts_once(received: list[int]) -> None:
    event = threading.Event()
    with asked_to_end(event):
        for _ in range(3):
            signal.raise_signal(signal.SIGUSR1)
        assert event.is_set()
        assert received == []


def test_a_later_one_has_its_usual_effect(received: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SAME", -1.0)
    with asked_to_end(threading.Event()):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert received


def test_a_person_is_heard_the_second_time(received: list[int]) -> None:
    with asked_to_end(threading.Event()):
        signal.raise_signal(signal.SIGINT)
        assert received == []
        signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT]
