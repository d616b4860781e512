"""A thread is asked to end as the main thread is by a signal."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fewstep.runtime.signals import Ending, asked_to_end, end_is_asked


def in_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_a_request_sets_the_events_of_its_thread_alone() -> None:
    ending, events = Ending(), [threading.Event() for _ in range(3)]

    def asked_in_between() -> None:
        with ending.heeded():
            with asked_to_end(events[0]):
                assert not end_is_asked()
                ending.ask()
                assert end_is_asked()
            with asked_to_end(events[1]):
                pass
        assert not end_is_asked()

    def another() -> None:
        with asked_to_end(events[2]):
            assert not end_is_asked()

    in_thread(asked_in_between)
    in_thread(another)
    assert [event.is_set() for event in events] == [True, True, False]
    assert not end_is_asked()
