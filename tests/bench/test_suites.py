"""Every shipped suite is ready to run: its recipes, data, metrics and claims fit together, shortened or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_data import write_chorales, write_mnist

from fewstep.bench.running.plan import make_plan
from fewstep.bench.suites.loading import load_suite
from fewstep.recipe.shipped import shipped_suites

LEAST = 24


def test_suites_ship() -> None:
    assert len(shipped_suites()) >= LEAST


@pytest.mark.medium
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("name", shipped_suites())
def test_a_shipped_suite_is_ready_to_run(name: str, quick: bool, tmp_path: Path) -> None:
    music, mnist = write_chorales(tmp_path / "music.json"), write_mnist(tmp_path / "mnist")
    files = {"dmmd-music": music, "shipped-chorales": music, "dmmd-mnist": mnist}
    sets = [f"data.path={files[name]}"] if name in files else []
    loaded = load_suite(name, quick=quick, sets=sets)
    assert loaded.suite.name == name, "results go to a folder of the suite's name"
    plan = make_plan(loaded, Path("unused"))
    trainings = len(loaded.suite.train_seeds or (None,))
    trained = [case for case in loaded.suite.cases if not case.oracle]
    assert len(plan.cases) == len(loaded.suite.cases) + (trainings - 1) * len(trained)
    head = loaded.path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"fewstep benchmark {name} --out results/{name}" in head, "its head says how to run it"
