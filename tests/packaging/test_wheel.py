"""The wheels of fewstep and of the example plugin, built, and used in clean environments outside of the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fewstep
from fewstep.recipe.shipped import shipped_recipes, shipped_suites

pytestmark = pytest.mark.medium

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "plugins/example-objective"
SHIPPED = {"recipes": "fewstep/shipped/recipes", "benchmarks/suites": "fewstep/shipped/suites"}


def build_wheel(project: Path, out: Path) -> Path:
    """Build offline, with the hatchling that is installed."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


class Environment:
    """A new virtual environment that sees the packages of this interpreter, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.site = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        # Names folders only: what is installed there in editable mode is not followed.
        seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.site / "packages_of_the_outer_interpreter.pth").write_text("\n".join(sorted(seen)) + "\n")

    def install(self, wheel: Path) -> None:
        """Install a wheel and nothing else; no index is asked."""
        options = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", *options, str(wheel)]
        done = self._call(command)
        assert done.returncode == 0, done.stderr

    def fewstep(self, *args: str) -> str:
        """What the installed command prints."""
        done = self._call([str(self.bin / "fewstep"), *args])
        assert done.returncode == 0, f"fewstep {' '.join(args)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def known(self) -> dict[str, dict[str, Any]]:
        """`fewstep list --json`, each kind by name."""
        kinds = json.loads(self.fewstep("list", "--json"))
        return {kind: {row["name"]: row for row in rows} for kind, rows in kinds.items()}

    def pytest(self, folder: Path) -> None:
        command = [str(self.bin / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
        done = self._call(command)
        assert done.returncode == 0, done.stdout

    def python(self, code: str) -> str:
        done = self._call([str(self.bin / "python"), "-c", code])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.work, env=_plain_environment(), capture_output=True, text=True, check=False
        )


def _plain_environment() -> Mapping[str, str]:
    """This environment without what could lead to the checkout or to other plugins."""
    left_out = ("PYTHONPATH", "FEWSTEP_PLUGINS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}


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


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, trained: Environment) -> Environment:
    """The same with the example plugin."""
    assert "soft_targets" not in trained.known()["objectives"]
    trained.install(build_wheel(PLUGIN, tmp_path_factory.mktemp("plugin")))
    return trained


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


def test_the_installed_command_works_outside_of_the_repository(installed: Environment) -> None:
    assert Path(installed.python("import fewstep; print(fewstep.__file__)").strip()).is_relative_to(installed.site)
    known, names = installed.known(), sorted(shipped_recipes())
    assert sorted(known["recipes"]) == names
    assert set(known["suites"]) == set(shipped_suites())
    assert known["objectives"]["dmmd"]["origin"] == f"fewstep {fewstep.__version__}"
    assert installed.fewstep("validate", *names).splitlines() == [f"ok {name} ({name})" for name in names]


def test_the_installed_command_trains(trained: Environment) -> None:
    (run,) = (trained.work / "runs/smoke-teacher").iterdir()
    assert status_of(run) == "finished"
    assert json.loads((run / "environment.json").read_text())["commit"] is None


def test_an_installed_plugin_is_found_and_used(extended: Environment) -> None:
    known = extended.known()
    assert known["objectives"]["soft_targets"]["origin"] == "fewstep-example-objective 0.1.0"
    assert known["plugins"]["example-objective"]["summary"] == "loaded"
    (extended.work / "mine.yaml").write_text((PLUGIN / "recipes/soft-targets.yaml").read_text())
    assert extended.fewstep("validate", "mine.yaml") == "ok soft-targets (mine.yaml)\n"
    extended.fewstep("distill", "mine.yaml")
    (run,) = (extended.work / "runs/soft-targets").iterdir()
    assert status_of(run) == "finished"
    assert "example-objective (fewstep-example-objective 0.1.0)" in (run / "environment.json").read_text()


def test_the_plugins_own_tests_pass(extended: Environment) -> None:
    extended.pytest(PLUGIN / "tests")
