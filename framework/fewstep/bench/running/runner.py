"""`fewstep benchmark`: trains, samples and scores the cases of a suite. It can be stopped and continued at any time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.bench.report.compare import check_comparable, compare_results
from fewstep.bench.report.outputs import announce, write_outputs
from fewstep.bench.results.results import Results, results_file
from fewstep.bench.running.plan import Plan, make_plan
from fewstep.bench.running.reuse import code_of, earlier_rows, read_results
from fewstep.bench.running.session import Session
from fewstep.bench.suites.loading import load_suite
from fewstep.cluster.settings import ClusterSettings, load_cluster
from fewstep.core.errors import OperationError, UserError
from fewstep.core.plugins import plugins_are_trusted
from fewstep.runtime.console import say
from fewstep.runtime.lock import held
from fewstep.runtime.signals import interrupted_by_sigterm

if TYPE_CHECKING:
    from fewstep.bench.running.process import ProcessSettings
    from fewstep.cluster.cluster import Cluster


@dataclass(frozen=True)
class SuiteCall:
    """What `fewstep benchmark` was asked for."""

    source: str
    """Shipped name, or path."""
    out: str | None = None
    """Folder for results and runs; `results/SUITE` if left out (`results/SUITE-quick` for a quick run)."""
    quick: bool = False
    """Reduce it by its section `quick`."""
    sets: tuple[str, ...] = ()
    """Changes to every recipe, such as "data.path=FOLDER"."""
    jobs: int = 1
    """Number of processes that share the tasks, each with its part of the threads."""
    cluster: str | None = None
    """Cluster file or address of a scheduler, in place of `jobs`; see `fewstep.cluster`."""
    keep_code: bool = False
    """Take results that were measured with other code of fewstep."""
    base: str | None = None
    """Results of an earlier run, a file or a folder, to compare with."""
    reuse: tuple[str, ...] = ()
    """Results of other folders, files or folders, whose rows are not measured again."""

    def command(self) -> str:
        """The command line of the same call."""
        parts = ["fewstep", "benchmark", self.source, *(["--out", self.out] if self.out else [])]
        parts += ["--quick"] * self.quick
        parts += ["--jobs", str(self.jobs)] if self.jobs > 1 else []
        parts += ["--cluster", self.cluster] if self.cluster else []
        parts += [part for path in self.reuse for part in ("--reuse", path)]
        parts += ["--keep-code"] if self.keep_code else []
        parts += ["--compare", self.base] if self.base else []
        parts += ["--trust-plugins"] if plugins_are_trusted() else []
        return shlex.join([*parts, *(part for change in self.sets for part in ("--set", change))])


def run_suite(
    source: str,
    out: str | None = None,
    quick: bool = False,
    sets: Sequence[str] = (),
    *,
    jobs: int = 1,
    cluster: str | None = None,
    keep_code: bool = False,
    base: str | None = None,
    reuse: Sequence[str] = (),
) -> Path:
    """`measure_suite`, for those who read the results from the folder that it returns."""
    call = SuiteCall(source, out, quick, tuple(sets), jobs, cluster, keep_code, base, tuple(reuse))
    return measure_suite(call)[0]


def measure_suite(call: SuiteCall) -> tuple[Path, Results | None]:
    """Run a suite, or its missing rows, and write its results.

    Returns:
        The folder and the results; none after SIGTERM or Ctrl-C, and all measured rows are stored.

    Raises:
        RecipeError: the suite or one of its recipes is wrong; nothing was run.
        UserError: the folder or a file to reuse holds results of another suite, `base` does not compare with this one,
            or `cluster` is none.
        OperationError: a case failed (the others were completed), a value is worse than in `base`, or the cluster is
            gone.
    """
    if call.cluster and call.jobs > 1:
        raise UserError("--jobs and --cluster exclude each other; the number of workers stands in the cluster file")
    settings = load_cluster(call.cluster) if call.cluster else None
    base = Results.load(results_file(call.base)) if call.base else None
    reused = read_results(call.reuse)
    plan = _plan(call, reused)
    if base:
        check_comparable(base, plan.suite, plan.dataset.fingerprint, call.quick)
    earlier = earlier_rows(reused, plan.suite, call.quick)
    with held(plan.folder, "results"):
        with _opened(settings, plan.folder) as workers:
            session = Session(plan, call.command(), say, _setup(call.jobs, workers), earlier)
            for case in session.skipped:
                say(f"{case.case} is skipped: {case.reason}")
            finished = _finish(session, workers)
        if finished:
            return plan.folder, _conclude(session, base, str(call.base))
        say(f"stopped; all measured rows are stored, and the same command continues: {call.command()}")
        return plan.folder, None


@contextmanager
def _opened(settings: ClusterSettings | None, folder: Path) -> Iterator[Cluster | None]:
    """The cluster of the settings; None without any."""
    if settings is None:
        yield None
        return
    from fewstep.cluster.cluster import open_cluster

    with open_cluster(settings, folder, say) as cluster:
        yield cluster


def _plan(call: SuiteCall, reused: Mapping[str, Results]) -> Plan:
    """The plan of the suite in its folder."""
    loaded = load_suite(call.source, quick=call.quick, sets=call.sets)
    folder = Path(call.out) if call.out else Path("results") / f"{loaded.suite.name}{'-quick' if loaded.quick else ''}"
    return make_plan(loaded, folder, code_of(folder, reused, call.keep_code))


def _conclude(session: Session, earlier: Results | None, base: str) -> Results:
    """Write and print the results, and their comparison with earlier results; returns them.

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
    return results


def _finish(session: Session, workers: Cluster | None) -> bool:
    """Run all tasks. Returns False if they were stopped."""
    with interrupted_by_sigterm():
        try:
            return _run(session, workers)
        except KeyboardInterrupt:
            return False


def _setup(jobs: int, workers: Cluster | None) -> dict[str, int] | None:
    """Numbers of processes and threads; None for this process and its own threads."""
    import torch

    if workers:
        return {"jobs": workers.workers, "threads": workers.threads or torch.get_num_threads()}
    return None if jobs == 1 else {"jobs": jobs, "threads": max(1, torch.get_num_threads() // jobs)}


def _run(session: Session, workers: Cluster | None) -> bool:
    """Run all tasks in this process, in several, or on a cluster."""
    if workers:
        from fewstep.bench.running.distributed import run_on_cluster

        return run_on_cluster(session, workers, _process_settings(session))
    if "jobs" not in session.environment:
        return session.run()
    from fewstep.bench.running.pool import run_parallel

    return run_parallel(session, session.environment["jobs"], _process_settings(session))


def _process_settings(session: Session) -> ProcessSettings:
    """What other processes need to make the session's plan again."""
    from fewstep.bench.running.process import ProcessSettings

    loaded, environment = session.plan.loaded, session.environment
    return ProcessSettings(
        source=loaded.source,
        quick=loaded.quick,
        sets=loaded.sets,
        folder=session.plan.folder,
        code=session.plan.code,
        digest=session.plan.digest,
        commit=environment["commit"],
        threads=environment["threads"],
        trust_plugins=plugins_are_trusted(),
    )
