"""`fewstep benchmark`: trains, samples and scores what a suite names; it can be stopped and continued at any time."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.bench.outputs import announce, write_outputs
from fewstep.bench.plan import make_plan
from fewstep.bench.session import Session
from fewstep.bench.suite import load_suite
from fewstep.errors import OperationError


def run_suite(source: str, out: str | None = None, quick: bool = False, sets: Sequence[str] = ()) -> Path:
    """Run a suite, or what is missing of it, and write its results.

    Args:
        source: shipped name, or path.
        out: folder for everything; `results/SUITE` if left out (`results/SUITE-quick` for a quick run).
        quick: reduce it as its section `quick` says.
        sets: changes to every recipe, such as "data.path=FOLDER".

    Returns:
        The folder. SIGTERM and Ctrl-C keep what was measured and return as well.

    Raises:
        RecipeError: the suite or a recipe in it is wrong; nothing was run.
        UserError: the folder holds results of something else.
        OperationError: a case failed; the others were completed.
    """
    loaded = load_suite(source, quick=quick, sets=sets)
    folder = Path(out) if out else Path("results") / f"{loaded.suite.name}{'-quick' if quick else ''}"
    changes = [part for change in sets for part in ("--set", change)]
    place = ["--out", out] if out else []
    command = shlex.join(["fewstep", "benchmark", source, *place, *(["--quick"] * quick), *changes])
    session = Session(make_plan(loaded, folder), command, say)
    with _terminable():
        try:
            finished = session.run()
        except KeyboardInterrupt:
            finished = False
    if not finished:
        say(f"stopped; everything measured so far is kept, and the same command continues: {command}")
        return folder
    results = session.results()
    write_outputs(results, folder)
    announce(results, folder, say)
    if results.failures:
        names = "; ".join(f"{failure.case}: {failure.reason}" for failure in results.failures)
        raise OperationError(f"{len(results.failures)} of {len(loaded.suite.cases)} cases failed: {names}")
    return folder


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the suite as Ctrl-C does; while a model is trained, the trainer handles both."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
