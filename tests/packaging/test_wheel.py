"""The wheel of fewstep, built, and used in a clean environment outside of the repository.

`check_plugins.py` does the same with the wheels of all plugins.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from environments import ROOT, Environment, build_wheel

import fewstep
from fewstep.recipe.shipped import shipped_recipes, shipped_suites
from fewstep.runs.shipped import manifest

pytestmark = pytest.mark.medium

SHIPPED = {"recipes": "fewstep/shipped/recipes", "benchmarks/suites": "fewstep/shipped/suites"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """An environment with fewstep's wheel."""
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(wheel)
    return environment


@pytest.fixture(scope="module")
def trained(installed: Environment) -> Environment:
    """The same with a run of smoke-teacher."""
    installed.fewstep("train", "smoke-teacher")
    return installed


def status_of(run: Path) -> str:
    state: str = json.loads((run / "status.json").read_text())["state"]
    return state


def test_the_wheel_holds_one_package_and_all_of_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        yaml = {name: archive.read(name) for name in names if name.endswith(".yaml")}
    assert {name.split("/")[0] for name in names} == {"fewstep", f"fewstep-{fewstep.__version__}.dist-info"}
    sources = {p.relative_to(ROOT / "framework").as_posix() for p in (ROOT / "framework").rglob("*.py")}
    assert len(sources) > 50
    assert sources <= names
    assert {
        "fewstep/py.typed",
        "fewstep/__init__.pyi",
        f"fewstep-{fewstep.__version__}.dist-info/licenses/LICENSE",
    } <= names
    files = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes()
        for folder, place in SHIPPED.items()
        for path in (ROOT / folder).rglob("*.yaml")
    }
    assert len(files) > 20
    assert yaml == files


def test_the_wheel_holds_the_models_and_stays_small(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {file.filename: file.file_size for file in archive.infolist()}
    for name, model in manifest().models.items():
        assert {f"fewstep/shipped/models/{name}/{file}" for file in model.files} <= sizes.keys()
    assert sum(sizes.values()) < 12_000_000  # without what Python compiles


def test_the_installed_command_works_outside_of_the_repository(installed: Environment) -> None:
    assert Path(installed.python("-c", "import fewstep; print(fewstep.__file__)").strip()).is_relative_to(
        installed.site
    )
    known, names = installed.known(), sorted(shipped_recipes())
    assert sorted(known["recipes"]) == names
    assert set(known["suites"]) == set(shipped_suites())
    assert known["objectives"]["dmmd"]["origin"] == f"fewstep {fewstep.__version__}"
    assert installed.fewstep("validate", *names).splitlines() == [f"ok {name} ({name})" for name in names]
    shown = installed.fewstep("sample", "digits-dmmd", "-n", "2", "--steps", "2")
    assert shown.splitlines()[-1].startswith("wrote runs/fewstep--digits-dmmd/samples/")


def test_the_installed_command_trains(trained: Environment) -> None:
    (run,) = (trained.work / "runs/smoke-teacher").iterdir()
    assert status_of(run) == "finished"
    assert json.loads((run / "environment.json").read_text())["commit"] is None
