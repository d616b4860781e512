"""Signals that ask a long process to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask for an end: of the system, of a person, of a lost terminal, of a cluster's queue."""


@contextmanager
def asked_to_end(event: threading.Event) -> Iterator[None]:
    """Set `event` at the first signal that asks for an end; a second one has its usual effect.

    Outside the main thread, which alone receives signals, nothing is changed. A lost terminal that is to be ignored
    (`nohup`) still is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in ENDING}
    if previous[signal.SIGHUP] is signal.SIG_IGN:  # as nohup asks for
        del previous[signal.SIGHUP]

    def stop(number: int, frame: object) -> None:
        event.set()
        signal.signal(number, previous[signal.Signals(number)])

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
