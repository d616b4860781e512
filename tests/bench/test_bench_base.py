"""What `make bench-quick` compares with: kept results of the suite `exact`, shortened."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.bench.report.compare import check_comparable, compare_results
from fewstep.bench.results.results import Results
from fewstep.bench.running.plan import make_plan
from fewstep.bench.suites.loading import load_suite

ROOT = Path(__file__).parents[2]
BASE = ROOT / "benchmarks" / "results" / "exact-quick" / "base.json"
SUITE = load_suite("exact", quick=True)
BEFORE = Results.load(BASE)
MEASURED = [(case.name, steps) for case in SUITE.suite.cases for steps in case.steps]


def test_the_base_is_of_this_suite_and_of_the_data_that_this_machine_makes(tmp_path: Path) -> None:
    plan = make_plan(SUITE, tmp_path)
    check_comparable(BEFORE, plan.suite, plan.dataset.fingerprint, quick=True)
    assert [(s.case, s.steps) for s in BEFORE.summary if s.nfe] == MEASURED
    assert BEFORE.complete
    assert BASE.stat().st_size < 100_000


def test_the_models_of_the_base_have_learned_something() -> None:
    """Else nothing that goes wrong in training would make them worse; what is exact has no training at all."""
    values = {key: BEFORE.find(*key) for key in MEASURED}
    scores = {key: found.values["ngram_tv"].mean for key, found in values.items() if found}
    allowed = SUITE.suite.tolerances["ngram_tv"]
    most = max(SUITE.suite.cases[0].steps)
    for case in SUITE.suite.cases:
        assert scores[case.name, most] < scores["oracle", 1] - allowed


@pytest.mark.parametrize(("case", "steps"), MEASURED)
def test_any_value_that_is_worse_is_named(case: str, steps: int) -> None:
    allowed = SUITE.suite.tolerances["ngram_tv"]
    for factor, worse in ((0.9, False), (1.1, True)):
        rows = [s.model_copy(deep=True) for s in BEFORE.summary]
        row = next(s for s in rows if (s.case, s.steps) == (case, steps))
        row.values["ngram_tv"] = row.values["ngram_tv"].model_copy(
            update={"mean": row.values["ngram_tv"].mean + factor * allowed}
        )
        now = BEFORE.model_copy(update={"summary": tuple(rows)})
        found = compare_results(now, BEFORE, SUITE.suite.tolerances).regressions
        assert [text.split(":")[0] for text in found] == [f"{case} at {steps} steps"] * worse
        assert all(f"(worse by {factor * allowed:.3g}, allowed: {allowed:.3g})" in text for text in found)


def test_nothing_lands_without_the_comparison() -> None:
    assert "\nmake bench-quick\n" in (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert f"BASE := {BASE.relative_to(ROOT)}\n" in makefile
    assert "benchmark exact --quick --jobs 2 --out results/exact-quick\n" in makefile
    assert "$(BENCH) --compare $(BASE)\n" in makefile
