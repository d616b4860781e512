"""`fewstep.benchmark`: the command of that name, as a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from fewstep.bench.report.html import plot, table
from fewstep.bench.report.tables import conclusion, value_grid
from fewstep.bench.results.results import Results
from fewstep.bench.running.runner import SuiteCall, measure_suite
from fewstep.core.plugins import trusting_plugins
from fewstep.core.python_words import python_words
from fewstep.training.train import Changes, as_sets


@dataclass(frozen=True, repr=False)
class Benchmarked:
    """Results of a suite and their folder, where table, plots, sheets and `report.html` lie. A notebook shows table and
    plot."""

    results: Results
    folder: Path

    @property
    def rows(self) -> list[dict[str, object]]:
        """One row for each model and number of steps: `case`, `steps`, `nfe` and the mean of each value over seeds."""
        return [
            {
                "case": row.case,
                "steps": row.steps,
                "nfe": row.nfe,
                **{name: estimate.mean for name, estimate in row.values.items()},
            }
            for row in self.results.summary
        ]

    def __repr__(self) -> str:
        return f"<Benchmarked: {conclusion(self.results)} {self.folder / 'report.html'}>"

    def _repr_html_(self) -> str:
        picture = self.folder / "quality_vs_nfe.png"
        return f"{table(value_grid(self.results))}{plot(picture, 'quality by network evaluations')}"


@python_words()
def benchmark(
    suite: str | PathLike[str],
    *,
    out: str | PathLike[str] | None = None,
    quick: bool = False,
    jobs: int = 1,
    cluster: str | PathLike[str] | None = None,
    compare: str | PathLike[str] | None = None,
    reuse: Sequence[str | PathLike[str]] = (),
    keep_code: bool = False,
    changes: Changes | None = None,
    trust_plugins: bool = False,
) -> Benchmarked:
    """Run a suite, or what is missing of it, as `fewstep benchmark` does.

    With `jobs` above 1, a script calls this below `if __name__ == "__main__":`, since other processes import it.

    Args:
        suite: name of a shipped suite, or path of a file.
        out: folder for results; None for `results/SUITE`.
        quick: reduced run, to check that the suite works.
        jobs: number of processes, each with one model at a time.
        cluster: file or address of a Dask cluster, in the place of `jobs`.
        compare: earlier results to compare with, a file or a folder.
        reuse: results of other folders, files or folders, whose rows are not measured again.
        keep_code: reuse models and rows of other code of fewstep.
        changes: values by dotted key, for every recipe, such as `{"data.path": "pictures"}`.
        trust_plugins: run the plugin files and modules that models list.

    Raises:
        UserError: suite or recipes are wrong, or the folder holds results of another suite; nothing was run.
        OperationError: a case failed (the others were completed), or a value is worse than in `compare`.
        KeyboardInterrupt: it was stopped; the same call continues it.
    """
    places = [None if place is None else fspath(place) for place in (out, cluster, compare)]
    call = SuiteCall(
        source=fspath(suite),
        out=places[0],
        quick=quick,
        sets=tuple(as_sets(changes)),
        jobs=jobs,
        cluster=places[1],
        keep_code=keep_code,
        base=places[2],
        reuse=tuple(fspath(place) for place in reuse),
    )
    with trusting_plugins(trust_plugins):
        folder, results = measure_suite(call)
    if results is None:
        raise KeyboardInterrupt
    return Benchmarked(results, folder)
