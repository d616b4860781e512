"""Rows that were measured elsewhere: results of the same suite from another folder, session or machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.bench.results.results import CaseResult, Results, Row, results_file
from fewstep.bench.suites.suite import Suite
from fewstep.core.errors import UserError
from fewstep.runs.code import code_digest


@dataclass(frozen=True)
class Earlier:
    """Rows by key, and models by id and digest, of all files that `--reuse` names. The first file that has one wins."""

    rows: dict[str, Row] = field(default_factory=dict)
    cases: dict[tuple[str, str], CaseResult] = field(default_factory=dict)


def read_results(paths: Sequence[str]) -> dict[str, Results]:
    """The results of files or folders, by the path that was given.

    Raises:
        UserError: a file is missing or damaged.
    """
    return {path: Results.load(results_file(path)) for path in paths}


def earlier_rows(found: Mapping[str, Results], suite: Suite, quick: bool) -> Earlier:
    """What a run of a suite may reuse of results by path.

    Sheets of samples stay where they are, so rows come without.

    Raises:
        UserError: a file is of another suite.
    """
    earlier = Earlier()
    for path, results in found.items():
        check_same_suite(results, suite, quick, f"'{path}' holds {{run}}, which --reuse cannot take for this one")
        for row in results.rows:
            earlier.rows.setdefault(row.key, row.model_copy(update={"sheet": None}))
        for case in results.cases:
            earlier.cases.setdefault((case.id, case.digest), case)
    return earlier


def check_same_suite(results: Results, suite: Suite, quick: bool, message: str) -> None:
    """Refuse results of another suite, or of a quick run for a full one.

    Args:
        message: the sentence, with `{run}` for what the results are.

    Raises:
        UserError: they are of another suite.
    """
    found = results.suite
    if (found.name, found.quick) != (suite.name, quick):
        run = f"{'a quick run' if found.quick else 'a full run'} of suite '{found.name}'"
        raise UserError(message.format(run=run))


def code_of(folder: Path, found: Mapping[str, Results], keep_code: bool) -> str | None:
    """Digest of the code that rows are kept under: the present code's, or with `keep_code` that of earlier results.

    Raises:
        UserError: a file to reuse was measured with other code, or two files with different code.
    """
    own = [str(folder / "results.json")] * (keep_code and (folder / "results.json").exists())
    codes = {path: results.suite.code for path, results in {**read_results(own), **found}.items()}
    if not keep_code:
        present = code_digest()
        other = next((path for path, code in codes.items() if code != present), None)
        if other is not None:
            raise UserError(
                f"'{other}' was measured with other code of fewstep; --keep-code takes its rows all the same"
            )
        return present
    _refuse_several(codes.items())
    return next(iter(codes.values()), code_digest())


def _refuse_several(codes: Iterable[tuple[str, str | None]]) -> None:
    (first, code), *others = list(codes) or [("", None)]
    for path, other in others:
        if other != code:
            raise UserError(f"'{first}' and '{path}' were measured with different code; they do not make one table")
