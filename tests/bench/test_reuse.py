"""Rows that other folders hold: what is taken, what is trained for the rest, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import SUITE

from fewstep.bench.results.results import Results
from fewstep.bench.running import reuse, tasks
from fewstep.bench.running.runner import SuiteCall, run_suite
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.errors import UserError
from fewstep.runs import code

Write = Callable[..., str]
SEEDS: dict[str, Any] = {"train_seeds": [0, 1], "seeds": [0], "samples": 40}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that are trained and cases that are measured, from now on."""
    calls: list[str] = []
    fit, measure = tasks.fit, tasks.measure
    monkeypatch.setattr(tasks, "fit", lambda *a, **k: calls.append(f"train {a[1].path.name}"[:-9]) or fit(*a, **k))
    monkeypatch.setattr(
        tasks, "measure", lambda *a, **k: calls.append(f"measure {a[1].case}-{a[1].train_seed}") or measure(*a, **k)
    )
    return calls


def load(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def timeless(results: Results) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"seconds", "sheet"}) for row in results.rows]


def part(results: Results, path: Path, keep: Callable[[str, int | None], bool]) -> str:
    """A file with some of the rows and models."""
    rows = tuple(row for row in results.rows if keep(row.case, row.train_seed))
    cases = tuple(case for case in results.cases if keep(case.name, case.train_seed))
    results.model_copy(update={"rows": rows, "cases": cases, "complete": False}).save(path)
    return str(path)


@pytest.mark.medium
def test_two_parts_make_the_table_of_one_run(write_suite: Write, tmp_path: Path, done: list[str]) -> None:
    source = write_suite(**SEEDS)
    whole = load(run_suite(source, str(tmp_path / "whole")))
    parts = [
        part(whole, tmp_path / f"part{seed}.json", lambda case, train_seed, seed=seed: train_seed == seed)
        for seed in (0, 1)
    ]
    done.clear()
    again = load(run_suite(source, str(tmp_path / "again"), reuse=parts))
    # Real samples and the oracle have no seed of training, so neither part has them.
    assert done == [f"measure {REFERENCE}-None", "measure oracle-None"]
    assert again.complete
    assert timeless(again) == timeless(whole)
    assert (again.summary, again.claims) == (whole.summary, whole.claims)
    assert {case.id: case.logged for case in again.cases} == {case.id: case.logged for case in whole.cases}
    assert all(row.sheet is None for row in again.rows if row.train_seed is not None)


@pytest.mark.medium
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_teacher_is_trained_again_only_for_a_student_that_lacks_rows(
    write_suite: Write, tmp_path: Path, done: list[str], jobs: int
) -> None:
    source = write_suite(**SEEDS)
    whole = load(run_suite(source, str(tmp_path / "whole")))
    file = part(whole, tmp_path / "part.json", lambda case, seed: (case, seed) != ("student", 1))
    done.clear()
    out = run_suite(source, str(tmp_path / "again"), reuse=[file], jobs=jobs)
    trained = sorted(folder.name[:-9] for folder in (out / "runs").iterdir())
    assert trained == ["student-s1", "teacher-s1"]
    if jobs == 1:
        assert done == ["train teacher-s1", "train student-s1", "measure student-1", "measure student-1"]
        assert timeless(load(out)) == timeless(whole)


@pytest.mark.medium
def test_results_outlive_their_runs(write_suite: Write, tmp_path: Path, done: list[str]) -> None:
    source = write_suite(seeds=[0])
    out = run_suite(source, str(tmp_path / "out"))
    before = load(out)
    shutil.rmtree(out / "runs")
    done.clear()
    run_suite(source, str(out))
    assert done == []
    assert load(out).without_times() == before.without_times()


@pytest.mark.medium
def test_a_changed_recipe_takes_nothing_that_depends_on_it(write_suite: Write, tmp_path: Path, done: list[str]) -> None:
    source = write_suite(seeds=[0])
    whole = run_suite(source, str(tmp_path / "whole"))
    done.clear()
    cases = [dict(spec) for spec in SUITE["cases"]]
    cases[1]["set"] = ["optim.lr=0.01"]
    run_suite(write_suite(seeds=[0], cases=cases), str(tmp_path / "again"), reuse=[str(whole)])
    assert done == ["train teacher", "train student", "measure student-None", "measure student-None"]


@pytest.mark.medium
def test_other_code_is_taken_only_when_asked(
    write_suite: Write, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [{"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]}]
    source = write_suite(cases=cases, claims=None, seeds=[0])
    whole = run_suite(source, str(tmp_path / "whole"))
    done.clear()
    monkeypatch.setattr(reuse, "code_digest", lambda: "another")
    with pytest.raises(UserError, match="measured with other code of fewstep; --keep-code takes its rows all the same"):
        run_suite(source, str(tmp_path / "again"), reuse=[str(whole)])
    again = run_suite(source, str(tmp_path / "again"), reuse=[str(whole)], keep_code=True)
    assert done == []
    assert load(again).suite.code == code.code_digest()
    results = load(whole)
    other = tmp_path / "other.json"
    results.model_copy(update={"suite": results.suite.model_copy(update={"code": "third"})}).save(other)
    with pytest.raises(UserError, match="different code; they do not make one table"):
        run_suite(source, str(tmp_path / "more"), reuse=[str(whole), str(other)], keep_code=True)


@pytest.mark.medium
def test_results_of_another_suite_and_of_a_quick_run_are_refused(
    write_suite: Write, tmp_path: Path, finished: Path
) -> None:
    with pytest.raises(UserError, match="holds a full run of suite 'tiny', which --reuse cannot take for this one"):
        run_suite(write_suite(name="other"), str(tmp_path / "out"), reuse=[str(finished)])
    with pytest.raises(UserError, match="holds a full run of suite 'tiny'"):
        run_suite(write_suite(), str(tmp_path / "out"), quick=True, reuse=[str(finished)])
    with pytest.raises(UserError, match="cannot read"):
        run_suite(write_suite(), str(tmp_path / "out"), reuse=[str(tmp_path / "nothing.json")])


def test_the_command_that_continues_names_what_is_reused() -> None:
    call = SuiteCall("exact", out="here", reuse=("a.json", "b c"), keep_code=True)
    assert call.command() == "fewstep benchmark exact --out here --reuse a.json --reuse 'b c' --keep-code"
