"""Results of many runs as one ranking: of the same data, and of as many samples a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.bench.report.tables import ARROWS, REAL, Grid, budget, commits, ordered, titled
from fewstep.bench.results.results import Results, Summary, digest_of, results_file
from fewstep.bench.results.summary import shown
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.component import did_you_mean
from fewstep.core.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One model at one number of steps."""

    results: Results
    folder: str
    summary: Summary

    @property
    def model(self) -> str:
        """What tables call it."""
        case = self.results.case(self.summary.case)
        if case is None:
            return REAL
        return titled(case.name, case.label)


@dataclass(frozen=True)
class Leaderboard:
    """Entries from the best to the worst by `value`."""

    value: str
    directions: dict[str, str]
    beside: dict[str, str]
    entries: tuple[Entry, ...]

    def grid(self) -> Grid:
        """As a table."""
        names = ordered(self.directions, self.value, self.beside)
        header = ["model", "suite", "data", "hardware", "commit", "NFE"]
        header += [name + ARROWS[self.directions[name]] for name in names] + ["evaluations"]
        return Grid(header, [self._row(entry, names) for entry in self.entries], words=5)

    def _row(self, entry: Entry, names: Sequence[str]) -> list[str]:
        results, summary = entry.results, entry.summary
        suite = results.suite.name + (" (quick)" if results.suite.quick else "")
        about = [entry.model, suite, data_of(results)[:8], str(results.environment["hardware"]), commits(results)]
        values = [shown(summary.values[name]) if name in summary.values else "" for name in names]
        case = results.case(summary.case)
        return [*about, "" if summary.nfe is None else str(summary.nfe), *values, budget(case) if case else ""]

    def plain(self) -> list[dict[str, Any]]:
        """As plain data."""
        return [
            {
                "model": entry.model,
                "suite": entry.results.suite.name,
                "quick": entry.results.suite.quick,
                "data": data_of(entry.results),
                "hardware": entry.results.environment["hardware"],
                "commit": entry.results.commit,
                "folder": entry.folder,
                **entry.summary.model_dump(mode="json", include={"steps", "nfe", "values"}),
            }
            for entry in self.entries
        ]


def merge(sources: Sequence[str | Path], *, value: str | None = None, data: str | None = None) -> Leaderboard:
    """Rank what several runs measured.

    Args:
        sources: results, as files or as folders.
        value: to rank by; the headline value of all of them if left out.
        data: first digits of a fingerprint; results of other data are left out.

    Raises:
        UserError: results cannot be read, or are of different data, or of different numbers of samples, or have no
            value in common that is better one way.
    """
    found = [(str(source), Results.load(results_file(source))) for source in sources]
    if data:
        kept = [(source, results) for source, results in found if data_of(results).startswith(data)]
        if not kept:
            known = ", ".join(dict.fromkeys(data_of(results)[:8] for _, results in found))
            raise UserError(f"--data: no results of data '{data}'; known: {known}")
        found = kept
    _alike(found)
    directions = {name: way for _, results in found for name, way in results.directions.items()}
    value = _ranked_by(found, directions, value)
    entries = [
        Entry(results, source, summary)
        for source, results in found
        for summary in results.summary
        if value in summary.values and summary.case != REFERENCE
    ]
    sign = -1 if directions[value] == "higher" else 1
    ranked = sorted(entries, key=lambda entry: sign * entry.summary.values[value].mean)
    beside = {name: other for _, results in found for name, other in results.beside.items()}
    return Leaderboard(value, directions, beside, tuple(ranked))


def data_of(results: Results) -> str:
    """Fingerprint of the data; in results of version 1, which do not say, a digest of their settings."""
    return results.suite.data or "set-" + digest_of(results.cases[0].resolved["data"] if results.cases else None)[:12]


def _alike(found: Sequence[tuple[str, Results]]) -> None:
    """Values compare: the same data, and as many samples in each row."""
    by_data: dict[str, list[str]] = {}
    by_samples: dict[int, list[str]] = {}
    for source, results in found:
        by_data.setdefault(data_of(results), []).append(source)
        by_samples.setdefault(results.suite.samples, []).append(source)
    if len(by_data) > 1:
        told = "; ".join(f"{digest[:8]}: {', '.join(sources)}" for digest, sources in by_data.items())
        raise UserError(f"these results are of different data, which do not rank ({told}); choose some with --data")
    if len(by_samples) > 1:
        told = "; ".join(f"{count}: {', '.join(sources)}" for count, sources in by_samples.items())
        raise UserError(f"these results have different numbers of samples in a row, on which values depend ({told})")


def _ranked_by(found: Sequence[tuple[str, Results]], directions: dict[str, str], value: str | None) -> str:
    if value is None:
        headlines = list(dict.fromkeys(results.headline for _, results in found))
        if len(headlines) > 1:
            raise UserError(f"these results have different headline values; choose one with --value: {headlines}")
        return headlines[0]
    if value not in directions:
        hint = did_you_mean(value, list(directions)) or ";"
        raise UserError(f"--value: no value named '{value}'{hint} known: {', '.join(directions)}")
    if directions[value] == "info":
        raise UserError(f"--value: neither high nor low is better for '{value}'; choose another")
    return value
