"""A new plugin of each kind is correct at once: style, types, tests, and a recipe that trains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fewstep
from fewstep.cli.main import main
from fewstep.core.kinds import KINDS
from fewstep.testing.new_plugin import TEMPLATES, new_plugin

SHORT = "kit-{}"
LONG = "fewstep-longest-of-{}"
ALL = """
import os, sys
import pytest
from fewstep.cli.main import main
folders = sys.argv[1:]
assert pytest.main(["-q", "-p", "no:cacheprovider", *(f"{folder}/tests" for folder in folders)]) == 0
recipes = [(".", "smoke-teacher"), *((folder, "recipes/" + os.listdir(f"{folder}/recipes")[0]) for folder in folders)]
home = os.getcwd()
for folder, recipe in recipes:
    os.chdir(folder)
    try:
        main(["train", recipe, "--set", "train.steps=2"])
    except SystemExit as stop:
        assert not stop.code, recipe
    assert os.listdir("runs")
    os.chdir(home)
"""


def written(folder: Path, names: str) -> list[Path]:
    """A plugin of every kind."""
    singular = {kind: kind.removesuffix("es" if kind == "processes" else "s").replace("_", "-") for kind in KINDS}
    return [new_plugin(names.format(word), kind, folder / names.format(word))[1] for kind, word in singular.items()]


def run(*command: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_has_templates() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == {*KINDS, "common"}


@pytest.mark.parametrize("names", [SHORT, LONG])
def test_style(names: str, tmp_path: Path) -> None:
    written(tmp_path, names)
    for command in (["check", "--no-cache"], ["format", "--no-cache", "--check", "--diff"]):
        run(sys.executable, "-m", "ruff", *command, ".", folder=tmp_path)


def test_nothing_of_the_templates_is_left(tmp_path: Path) -> None:
    for path in (path for folder in written(tmp_path, SHORT) for path in folder.rglob("*") if path.is_file()):
        assert not re.search(r"\$\{?[a-z]", path.read_text(encoding="utf-8")), path


def install(folders: list[Path], site: Path) -> str:
    """What pip would write for each, into a folder of the path; returns the PYTHONPATH."""
    for folder in folders:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        (name,) = re.findall(r'^name = "(.*)"', text, re.MULTILINE)
        (needs,) = re.findall(r'^dependencies = \["(.*)"\]', text, re.MULTILINE)
        (entry,) = re.findall(r'"fewstep\.plugins"\]\n(.*)\n', text)
        info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\nRequires-Dist: {needs}\n")
        left, right = entry.split(" = ")
        (info / "entry_points.txt").write_text(f"[fewstep.plugins]\n{left} = {right.strip(chr(34))}\n")
    places = [site, *(folder / "src" for folder in folders), Path(fewstep.__file__).parents[1]]
    return os.pathsep.join(map(str, places))


@pytest.mark.medium
def test_tests_pass_and_recipes_train(tmp_path: Path) -> None:
    folders = written(tmp_path, SHORT)
    for folder in folders:  # the student of a noise input finds its teacher
        (folder / "runs").symlink_to(tmp_path / "runs") if "noise" in folder.name else None
    path = install(folders, tmp_path / "site")
    run(sys.executable, "-c", ALL, *map(str, folders), folder=tmp_path, PYTHONPATH=path)


@pytest.mark.slow
def test_types(tmp_path: Path) -> None:
    """One call of mypy for all, as strict as each plugin's own settings."""
    folders = written(tmp_path, SHORT)
    text = (folders[0] / "pyproject.toml").read_text(encoding="utf-8")
    options = text[text.index("[tool.mypy]") :]
    sources = [str(folder / "src") for folder in folders]
    options = options.replace('["src", "tests"]', repr([*sources, *(str(f / "tests") for f in folders)]))
    options = options.replace('"src"\n', f'"{os.pathsep.join([*sources, str(Path(fewstep.__file__).parents[1])])}"\n')
    (tmp_path / "pyproject.toml").write_text(options)
    run(sys.executable, "-m", "mypy", "--no-error-summary", folder=tmp_path)


# ------------------------------------------------------------- the command


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["new-plugin", *args])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


def test_the_command_says_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = call(capsys, "fewstep-mine", "--kind", "objective")
    assert code == 0
    assert text.splitlines() == [
        "wrote fewstep-mine: edit fewstep-mine/src/fewstep_mine/mine.py",
        "next: pip install -e fewstep-mine   python -m pytest fewstep-mine   "
        "fewstep train fewstep-mine/recipes/mine.yaml",
    ]
    code, text = call(capsys, "fewstep-mine", "--kind", "objectives")
    assert (code, text) == (
        2,
        "error: 'fewstep-mine' exists already; name another folder with --out, or delete it\n",
    )
    assert call(capsys, "fewstep-mine", "--kind", "noise_input", "--out", "other")[0] == 0
    assert (tmp_path / "other/recipes/mine.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("fewstep-mine", "objectiv", "no kind of component named 'objectiv'; did you mean 'objectives'?"),
        ("Mine", "objective", "'Mine' cannot name a distribution"),
        ("../x", "objective", "'../x' cannot name"),
        ("a" * 31, "objective", "at most 30 lower-case letters"),
        ("1st", "sampler", "cannot name"),
        ("", "sampler", "cannot name"),
        ("class", "sampler", "is a word of Python"),
        ("fewstep-class", "sampler", "is a word of Python"),
        ("torch", "sampler", "a module 'torch' is installed already"),
        ("fewstep-dmmd", "objective", "has the objective 'dmmd'; take another name"),
        ("fewstep", "objective", "take another name"),
    ],
)
def test_names_that_cannot_be_are_refused(
    name: str,
    kind: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = call(capsys, name, "--kind", kind)
    assert code == 2
    assert message in text
    assert len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())
