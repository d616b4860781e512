"""Cases of a part: each is guarded, recorded as soon as it ends, and left out if the time does not suffice for it."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from records import Records, State

Say = Callable[[str], None]
LIMIT = 200
"""Characters of an error that are kept."""


class Missing(Exception):
    """What a case needs is not here: data, a package, a mode of this version, or the case before it."""


@dataclass(frozen=True)
class Outcome:
    """A line for people, and numbers by name."""

    text: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A measurement: `seconds` is what it takes at most, or nearly so; with less left it does not begin."""

    name: str
    seconds: float
    run: Callable[[], Outcome]


@dataclass(frozen=True)
class Setting:
    """What all parts know.

    Args:
        short: whether sizes are tiny, for a CPU.
        left: seconds that the part still has.
        data: folder that holds `mnist` and `kjv`; None if none was found.
        out: folder of the results.
        work: folder of what can be thrown away.
        say: where lines go.
    """

    short: bool
    device: torch.device
    left: Callable[[], float]
    data: Path | None
    out: Path
    work: Path
    say: Say


def run_cases(part: str, cases: Iterable[Case], records: Records, setting: Setting) -> None:
    """Run the cases that have no result yet, in order."""
    for case in cases:
        if records.is_done(part, case.name):
            setting.say(f"{part}, {case.name}: is there already")
            continue
        # This stands if the process is ended, or ends by itself, in the middle of the case.
        records.add(part, case.name, "failed", "its process ended before it did")
        begin = time.monotonic()
        state, outcome = _run(case, setting.left())
        seconds = time.monotonic() - begin
        records.add(part, case.name, state, outcome.text, outcome.values, seconds)
        mark = "" if state == "done" else f"{state}: "
        setting.say(f"{part}, {case.name}: {mark}{outcome.text} ({seconds:.0f} s)")
        _free()


def _run(case: Case, left: float) -> tuple[State, Outcome]:
    if left < case.seconds:
        return "left out", Outcome(f"{max(left, 0):.0f} s were left, and it takes about {case.seconds:.0f}")
    try:
        return "done", case.run()
    except Missing as error:
        return "left out", Outcome(str(error))
    except Exception as error:  # the next case must go on, whatever it was
        return "failed", Outcome(one_line(error))


def one_line(error: BaseException) -> str:
    """Kind and first line of an error, where it has one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:LIMIT]


def _free() -> None:
    """Give back memory and compiled code of a case."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
