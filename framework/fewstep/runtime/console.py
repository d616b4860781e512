"""The console, whose reader may go away."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from fewstep.core.python_words import in_python


def say(line: str) -> None:
    """Print a line without delay, into a pipe too; once nobody can read it, nowhere."""
    try:
        print(line, flush=True)
    except OSError:
        silence_console()


def say_in_python(line: str) -> None:
    """Print a line with keywords of functions in the place of options of commands."""
    say(in_python(line))


def is_console(echo: Callable[[str], None]) -> bool:
    """Whether lines that go to `echo` are printed as they are."""
    return echo in (say, say_in_python)


def silence_console() -> None:
    """Send what is still printed nowhere, so that a lost reader neither stops the process nor fails its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # a stream of another kind, such as a notebook's
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
