"""`fewstep benchmark`: trains, samples and scores what a suite names; it can be stopped and continued at any time."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.bench.report.compare import check_comparable, compare_results
from fewstep.bench.report.outputs import announce, write_outputs
from fewstep.bench.results.results import Results, results_file
from fewstep.bench.running.code import code_digest
from fewstep.bench.running.plan import Plan, make_plan
from fewstep.bench.running.session import Session
from fewstep.bench.suites.suite import LoadedSuite, load_suite
from fewstep.core.errors import OperationError


def run_suite(
    source: str,
    out: str | None = None,
    quick: bool = False,
    sets: Sequence[str] = (),
    *,
    jobs: int = 1,
    keep_code: bool = False,
    base: str | None = None,
) -> Path:
    """Run a suite, or what is missing of it, and write its results.

    Args:
        source: shipped name, or path.
        out: folder for everything; `results/SUITE` if left out (`results/SUITE-quick` for a quick run).
        quick: reduce it as its section `quick` says.
        sets: changes to every recipe, such as "data.path=FOLDER".
        jobs: processes that share the work, each with its part of the threads.
        keep_code: take over what an earlier call measured with other code of fewstep.
        base: results of an earlier run, a file or a folder, to compare with.

    Returns:
        The folder. SIGTERM and Ctrl-C keep what was measured and return as well.

    Raises:
        RecipeError: the suite or a recipe in it is wrong; nothing was run.
        UserError: the folder holds results of something else, or `base` is about something else.
        OperationError: a case failed; the others were completed. Or a value is worse than in `base`.
    """
    earlier = Results.load(results_file(base)) if base else None
    plan = _plan(load_suite(source, quick=quick, sets=sets), out, keep_code)
    if earlier:
        check_comparable(earlier, plan.suite, plan.dataset.fingerprint, quick)
    command = _command(source, out, quick, jobs, keep_code, base, sets)
    session = Session(plan, command, say, _setup(jobs))
    for case in session.skipped:
        say(f"{case.case} is skipped: {case.reason}")
    if _finish(session, jobs):
        _conclude(session, earlier, str(base))
    else:
        say(f"stopped; everything measured so far is kept, and the same command continues: {command}")
    return plan.folder


def _plan(loaded: LoadedSuite, out: str | None, keep_code: bool) -> Plan:
    """The suite with its recipes and data, and the folder that it runs in."""
    folder = Path(out) if out else Path("results") / f"{loaded.suite.name}{'-quick' if loaded.quick else ''}"
    return make_plan(loaded, folder, _code(folder) if keep_code else code_digest())


def _command(
    source: str, out: str | None, quick: bool, jobs: int, keep_code: bool, base: str | None, sets: Sequence[str]
) -> str:
    """What a person types to run the same."""
    parts = ["fewstep", "benchmark", source, *(["--out", out] if out else []), *(["--quick"] * quick)]
    parts += ["--jobs", str(jobs)] if jobs > 1 else []
    parts += ["--keep-code"] if keep_code else []
    parts += ["--compare", base] if base else []
    return shlex.join([*parts, *(part for change in sets for part in ("--set", change))])


def _conclude(session: Session, earlier: Results | None, base: str) -> None:
    """Write and say what was measured, and how it compares with earlier results.

    Raises:
        OperationError: a case failed, or a value is worse.
    """
    results, suite, folder = session.results(), session.suite, session.plan.folder
    write_outputs(results, folder)
    announce(results, folder, say)
    comparison = compare_results(results, earlier, suite.tolerances) if earlier else None
    if comparison:
        text = comparison.markdown(base)
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        say(f"\n{text}")
    if results.failures:
        names = "; ".join(f"{failure.case}: {failure.reason}" for failure in results.failures)
        raise OperationError(f"{len(results.failures)} of {len(suite.cases)} cases failed: {names}")
    if comparison and comparison.regressions:
        raise OperationError(f"worse than in {base}: {'; '.join(comparison.regressions)}")


def _finish(session: Session, jobs: int) -> bool:
    """Do the work; False if it was stopped."""
    with _terminable():
        try:
            return _run(session, jobs)
        except KeyboardInterrupt:
            return False


def _code(folder: Path) -> str | None:
    """The code that the results in a folder are keyed by; the present one's if there are none."""
    file = folder / "results.json"
    return Results.load(file).suite.code if file.exists() else code_digest()


def _setup(jobs: int) -> dict[str, Any] | None:
    """How many processes and threads; None for this process and its own threads."""
    import torch

    return None if jobs == 1 else {"jobs": jobs, "threads": max(1, torch.get_num_threads() // jobs)}


def _run(session: Session, jobs: int) -> bool:
    """Do the work here, or in several processes."""
    if jobs == 1:
        return session.run()
    from fewstep.bench.running.pool import run_parallel
    from fewstep.bench.running.worker import Order

    loaded, environment = session.plan.loaded, session.environment
    order = Order(
        source=loaded.source,
        quick=loaded.quick,
        sets=loaded.sets,
        folder=session.plan.folder,
        code=session.plan.code,
        digest=session.plan.digest,
        commit=environment["commit"],
        threads=environment["threads"],
    )
    return run_parallel(session, jobs, order)


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
