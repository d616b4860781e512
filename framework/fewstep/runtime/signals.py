"""Requests to end a long task: by a signal to its process, or to one thread of it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that ask for an end: of the system, of a person, of a lost terminal, of a cluster's queue."""

_SAME = 5.0
"""Seconds within which a signal that comes again is the same one."""


class Ending:
    """A request to end what one thread does: `ask` does for it what a signal does for the main thread."""

    def __init__(self) -> None:
        self._lock, self._asked = threading.Lock(), False
        self._events: list[threading.Event] = []

    @property
    def asked(self) -> bool:
        return self._asked

    def ask(self) -> None:
        """Set the events of the thread, also those that come later. Any thread may call it."""
        with self._lock:
            self._asked = True
            for event in self._events:
                event.set()

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within it, `asked_to_end` of this thread listens to this request."""
        token = _ending.set(self)
        try:
            yield
        finally:
            _ending.reset(token)

    def listen(self, event: threading.Event) -> None:
        """Set `event` too when the end is asked for."""
        with self._lock:
            self._events.append(event)
            if self._asked:
                event.set()


_ending: ContextVar[Ending | None] = ContextVar("ending", default=None)


def end_is_asked() -> bool:
    """Whether this thread was asked to end by its `Ending`."""
    ending = _ending.get()
    return ending is not None and ending.asked


@contextmanager
def asked_to_end(event: threading.Event) -> Iterator[None]:
    """Set `event` at the first signal that asks for an end; a second one has its usual effect.

    The same signal within some seconds is the first one again, unless a person sends it: a cluster signals all
    processes of a job, and those among them that start others hand it on.

    Only the main thread receives signals; another one is asked through its `Ending`, if it has one. A lost terminal
    that is to be ignored (`nohup`) still is.
    """
    if threading.current_thread() is not threading.main_thread():
        if ending := _ending.get():
            ending.listen(event)
        yield
        return
    previous = {number: signal.getsignal(number) for number in ENDING}
    if previous[signal.SIGHUP] is signal.SIG_IGN:  # as nohup asks for
        del previous[signal.SIGHUP]

    since: dict[int, float] = {}

    def stop(number: int, frame: object) -> None:
        event.set()
        if number == signal.SIGINT or time.monotonic() - since.setdefault(number, time.monotonic()) > _SAME:
            signal.signal(number, previous[signal.Signals(number)])
            if number in since:
                signal.raise_signal(number)

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the main thread, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
