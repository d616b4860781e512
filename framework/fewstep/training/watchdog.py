"""A watchdog: ends a training that hangs, and says where it hung."""

from __future__ import annotations

import faulthandler
import threading
from pathlib import Path
from typing import TextIO


class Watchdog:
    """Ends the process with exit code 1 if no step begins for `minutes`; the stacks of all threads go into `log`.

    It is a thread of the interpreter itself (`faulthandler`), so it also works when Python code cannot run. It lives in
    the main thread only, since there is one for a process.
    """

    def __init__(self, minutes: float | None, log: Path) -> None:
        self.minutes, self.log = minutes, log
        self._file: TextIO | None = None

    def step(self) -> None:
        """A step begins."""
        if self.minutes is None or threading.current_thread() is not threading.main_thread():
            return
        if self._file is None:
            self._file = self.log.open("a", encoding="utf-8")
        faulthandler.dump_traceback_later(60 * self.minutes, exit=True, file=self._file)

    def end(self) -> None:
        """The training is over."""
        if self._file is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None
