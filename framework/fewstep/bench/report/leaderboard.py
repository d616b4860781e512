"""One ranking of the results of several runs with the same data and the same number of samples a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from fewstep.bench.report.curves import means_over_nfe
from fewstep.bench.report.tables import ARROWS, REAL, Grid, budget, commits, ordered, titled
from fewstep.bench.results.evaluations import stored_results
from fewstep.bench.results.results import Results, Summary, results_file
from fewstep.bench.results.summary import estimate_text
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean
from fewstep.data.base import DATASETS
from fewstep.runs.exported import is_exported
from fewstep.runs.shipped import model_path
from fewstep.runtime.hashing import digest_of


@dataclass(frozen=True)
class Entry:
    """One model at one number of steps."""

    results: Results
    folder: str
    summary: Summary

    @property
    def curve(self) -> str:
        """What its entries at other numbers of steps have in common: folder and case."""
        return f"{self.folder}:{self.summary.case}"

    @property
    def tokens_per_evaluation(self) -> float | None:
        """Tokens of a sample by its network evaluations; None if the settings of the data do not say the length."""
        case, nfe = self.results.case(self.summary.case), self.summary.nfe
        length = None if case is None else sample_length(case.resolved.get("data"))
        return None if length is None or not nfe else length / nfe

    @property
    def model(self) -> str:
        """Its name in tables."""
        case = self.results.case(self.summary.case)
        if case is None:
            return REAL
        return titled(case.name, case.label)


@dataclass(frozen=True)
class Leaderboard:
    """Entries from the best to the worst by `value`.

    `areas` has the mean of `value` over log NFE for each curve, on `span`, the NFE that all curves cover.
    """

    value: str
    directions: dict[str, str]
    beside: dict[str, str]
    entries: tuple[Entry, ...]
    areas: dict[str, float]
    span: tuple[float, float] | None

    def grid(self) -> Grid:
        """The ranking as a table."""
        names = ordered(self.directions, self.value, self.beside)
        header = ["model", "suite", "data", "hardware", "commit", "NFE"]
        header += ["tokens/evaluation"] if self._knows_lengths else []
        header += [name + ARROWS[self.directions[name]] for name in names]
        if self.span:
            low, high = map(_short, self.span)
            header.append(f"{self.value}, mean over NFE {low} to {high}{ARROWS[self.directions[self.value]]}")
        return Grid([*header, "evaluations"], [self._row(entry, names) for entry in self.entries], text_columns=5)

    @property
    def _knows_lengths(self) -> bool:
        return any(entry.tokens_per_evaluation for entry in self.entries)

    def _row(self, entry: Entry, names: Sequence[str]) -> list[str]:
        results, summary = entry.results, entry.summary
        suite = results.suite.name + (" (quick)" if results.suite.quick else "")
        about = [entry.model, suite, data_of(results)[:8], str(results.environment["hardware"]), commits(results)]
        values = [estimate_text(summary.values[name]) if name in summary.values else "" for name in names]
        case = results.case(summary.case)
        nfe = ["" if summary.nfe is None else str(summary.nfe)]
        tokens, area = entry.tokens_per_evaluation, self.areas.get(entry.curve)
        nfe += [_short(tokens)] if self._knows_lengths else []
        values += [_short(area)] if self.span else []
        return [*about, *nfe, *values, budget(case) if case else ""]

    def plain(self) -> list[dict[str, object]]:
        """The ranking as plain data."""
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
                "tokens_per_evaluation": entry.tokens_per_evaluation,
                "mean_over_nfe": self.areas.get(entry.curve),
                "nfe_range": self.span,
            }
            for entry in self.entries
        ]


def merge(sources: Sequence[str | Path], *, value: str | None = None, data: str | None = None) -> Leaderboard:
    """Rank the results of several runs.

    Args:
        sources: results, as files or folders; or models, whose kept evaluations count.
        value: to rank by; their common headline value if left out.
        data: first digits of a fingerprint; ignores results of other data.

    Raises:
        UserError: unreadable results, different data, different numbers of samples, or no common value with a better
            direction.
    """
    loaded = _loaded([str(source) for source in sources])
    if data:
        selected = [(source, results) for source, results in loaded if data_of(results).startswith(data)]
        if not selected:
            known = ", ".join(dict.fromkeys(data_of(results)[:8] for _, results in loaded))
            raise UserError(f"--data: no results of data '{data}'; known: {known}")
        loaded = selected
    _check_same_conditions(loaded)
    directions = {name: way for _, results in loaded for name, way in results.directions.items()}
    value = _ranking_value(loaded, directions, value)
    entries = [
        Entry(results, source, summary)
        for source, results in loaded
        for summary in results.summary
        if value in summary.values and summary.case != REFERENCE
    ]
    sign = -1 if directions[value] == "higher" else 1
    ranked = sorted(entries, key=lambda entry: sign * entry.summary.values[value].mean)
    beside = {name: other for _, results in loaded for name, other in results.beside.items()}
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry.summary.nfe:
            curves.setdefault(entry.curve, []).append((entry.summary.nfe, entry.summary.values[value].mean))
    areas, span = means_over_nfe(curves)
    return Leaderboard(value, directions, beside, tuple(ranked), areas, span)


def _loaded(sources: Sequence[str]) -> list[tuple[str, Results]]:
    """Results of files and folders, and of the evaluations of models: with as many samples as the files have."""
    models = {source for source in sources if _is_model(source)}
    files = {source: Results.load(results_file(source)) for source in sources if source not in models}
    samples = next((results.suite.samples for results in files.values()), None)
    evaluated = {source: stored_results(source, samples) for source in models}
    return [(source, files.get(source) or evaluated[source]) for source in dict.fromkeys(sources)]


def _is_model(source: str) -> bool:
    path = model_path(source)
    run = path.name == "latest" or (path / "recipe.resolved.yaml").is_file()
    return run or path.suffix == ".safetensors" or (path.is_dir() and is_exported(path))


def sample_length(data: object) -> int | None:
    """Tokens of a sample, by the settings of the data alone; None if they do not say it."""
    if not isinstance(data, dict):
        return None
    if isinstance(length := data.get("length"), int):
        return length
    try:
        config = DATASETS.parse(data)
        spec = DATASETS.get(config.type).cls.outline(config)
    except (ValidationError, LookupError, PydanticCustomError, UserError):
        return None  # of a plugin that is not installed, say
    return None if spec is None else spec.length


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def data_of(results: Results) -> str:
    """Fingerprint of the data; for results of version 1, which have none, a digest of the data's settings."""
    return results.suite.data or "set-" + digest_of(results.cases[0].resolved["data"] if results.cases else None)[:12]


def _check_same_conditions(loaded: Sequence[tuple[str, Results]]) -> None:
    """Values are comparable: the same data, and the same number of samples in each row."""
    by_data: dict[str, list[str]] = {}
    by_samples: dict[int, list[str]] = {}
    for source, results in loaded:
        by_data.setdefault(data_of(results), []).append(source)
        by_samples.setdefault(results.suite.samples, []).append(source)
    if len(by_data) > 1:
        groups = "; ".join(f"{digest[:8]}: {', '.join(sources)}" for digest, sources in by_data.items())
        raise UserError(f"these results are of different data, which do not rank ({groups}); choose one with --data")
    if len(by_samples) > 1:
        groups = "; ".join(f"{count}: {', '.join(sources)}" for count, sources in by_samples.items())
        raise UserError(f"these results have different numbers of samples in a row, on which values depend ({groups})")


def _ranking_value(loaded: Sequence[tuple[str, Results]], directions: dict[str, str], value: str | None) -> str:
    if value is None:
        headlines = list(dict.fromkeys(results.headline for _, results in loaded))
        if len(headlines) > 1:
            raise UserError(f"these results have different headline values; choose one with --value: {headlines}")
        return headlines[0]
    if value not in directions:
        hint = did_you_mean(value, list(directions)) or ";"
        raise UserError(f"--value: no value named '{value}'{hint} known: {', '.join(directions)}")
    if directions[value] == "info":
        raise UserError(f"--value: neither high nor low is better for '{value}'; choose another")
    return value
