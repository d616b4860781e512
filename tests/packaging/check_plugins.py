"""CI of the plugins: each one's wheel in one clean environment, their tests, plans of suites, a few steps of recipes.

    python tests/packaging/check_plugins.py [NAME...]

Takes every folder of `plugins/` with a `pyproject.toml`, or the named ones. Says what failed at the end; exit code 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from environments import ROOT, Environment, build_wheel

TRAINING = Path(__file__).with_name("train_few_steps.py")
PLANNING = Path(__file__).with_name("plan_suites.py")


def plugins(names: list[str]) -> list[Path]:
    """Folders of the distributions.

    Raises:
        SystemExit: a name is not among them.
    """
    folders = {path.parent.name: path.parent for path in sorted((ROOT / "plugins").glob("*/pyproject.toml"))}
    if unknown := set(names) - set(folders):
        raise SystemExit(f"no plugin {', '.join(sorted(unknown))}; there are {', '.join(folders)}")
    return [folder for name, folder in folders.items() if not names or name in names]


def installed(folders: list[Path], scratch: Path) -> Environment:
    """A clean environment with the wheels of fewstep and of all plugins."""
    with ThreadPoolExecutor(2) as pool:
        wheels = pool.map(build_wheel, [ROOT, *folders], [scratch / str(n) for n in range(len(folders) + 1)])
        environment = Environment(scratch / "environment")
        environment.install(*wheels)
    return environment


def checks(folders: list[Path], environment: Environment) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done for the plugins, by a label."""

    def loaded() -> None:
        known = environment.known()["plugins"].values()
        failed = [row for row in known if row["summary"] != "loaded"]
        assert len(known) >= len(folders), f"found {list(known)} of {len(folders)} plugins"
        assert not failed, failed

    yield "all: installed and loaded", loaded
    for folder in folders:
        # With settings of its own, and not those of this repository.
        options = ["-q", "-p", "no:cacheprovider", "-c", str(folder / "pyproject.toml"), str(folder / "tests")]
        yield f"{folder.name}: tests", lambda options=options: environment.python("-m", "pytest", *options)
    recipes = [str(path) for folder in folders for path in sorted((folder / "recipes").glob("*.yaml"))]
    suites = [str(path) for folder in folders for path in sorted((folder / "suites").glob("*.yaml"))]
    if len(folders) == len(plugins([])):  # those that need all of them
        suites += [str(path) for path in sorted((ROOT / "plugins/suites").glob("*.yaml"))]
    if suites:
        yield f"all: plans of {len(suites)} suites", lambda: environment.python(str(PLANNING), *suites)
    yield f"all: a few steps of {len(recipes)} recipes", lambda: environment.python(str(TRAINING), *recipes)


def main(names: list[str]) -> int:
    """Run all checks; returns the exit code."""
    folders, failures = plugins(names), 0
    with tempfile.TemporaryDirectory() as scratch:
        environment = installed(folders, Path(scratch))
        for label, check in checks(folders, environment):
            start = time.perf_counter()
            try:
                check()
                state = "ok"
            except AssertionError as error:
                state, failures = f"FAILED\n{error}", failures + 1
            print(f"{time.perf_counter() - start:5.1f} s  {label}: {state}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
