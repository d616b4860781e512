"""`fewstep benchmark --compare BASE` as a person calls it: what is printed, what is written, and the exit code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import write_files

from fewstep.cli.main import main

pytestmark = pytest.mark.medium

Suite = tuple[str, Path]
"""The suite's file, and a folder with its finished results, in which everything is reused."""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite that has tolerances, and with its results, made by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("once")
    source = write_files(folder, tolerances={"ngram_tv": 0.05})
    program = [sys.executable, "-m", "fewstep", "benchmark", source, "--out", str(folder / "out")]
    subprocess.run(program, check=True, capture_output=True)
    return folder


@pytest.fixture
def suite(once: Path, tmp_path: Path) -> Suite:
    shutil.copytree(once, tmp_path / "once")
    return str(tmp_path / "once" / "suite.yaml"), tmp_path / "once" / "out"


def base(results: Path, place: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """A changed copy of results, as a base to compare with."""
    raw = json.loads((results / "results.json").read_text())
    change(raw)
    place.write_text(json.dumps(raw))
    return place


def run(capsys: pytest.CaptureFixture[str], suite: Suite, compared: Path, *more: str) -> tuple[Any, str, str]:
    """Exit code, and what was printed."""
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", suite[0], "--out", str(suite[1]), "--compare", str(compared), *more])
    return caught.value.code, *capsys.readouterr()


def student_was(difference: float) -> Callable[[dict[str, Any]], None]:
    """The student's headline value at 2 steps was so much higher."""

    def change(raw: dict[str, Any]) -> None:
        found = next(s for s in raw["summary"] if (s["case"], s["steps"]) == ("student", 2))
        found["values"]["ngram_tv"]["mean"] += difference

    return change


@pytest.mark.parametrize(
    ("difference", "said"), [(0.0, "within the allowed"), (-0.04, "within the allowed"), (0.3, "1 better")]
)
def test_nothing_is_worse(
    capsys: pytest.CaptureFixture[str], suite: Suite, tmp_path: Path, difference: float, said: str
) -> None:
    compared = base(suite[1], tmp_path / "base.json", student_was(difference))
    code, out, err = run(capsys, suite, compared)
    assert (code, err) == (0, "")
    assert f"Compared with `{compared}`: " in out
    assert said in out
    assert "| worse |" not in (suite[1] / "comparison.md").read_text()


def test_worse_than_allowed(capsys: pytest.CaptureFixture[str], suite: Suite, tmp_path: Path) -> None:
    """One sentence names case, steps, value, both figures and the tolerance; the table has a row of it."""
    compared = base(suite[1], tmp_path / "base.json", student_was(-0.06))
    code, out, err = run(capsys, suite, compared)
    assert code == 1
    assert err.startswith(f"error: worse than in {compared}: student at 2 steps: ngram_tv 0.")
    assert err.endswith("(worse by 0.06, allowed: 0.05)\n")
    assert err.count("\n") == 1
    table = (suite[1] / "comparison.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| student | 2 | ngram_tv"))
    assert row.endswith("| +0.06 | 0.05 | worse |")
    assert table.strip() in out
    assert (suite[1] / "report.html").exists(), "results are written before they are judged"


def test_what_is_not_measured_any_more(capsys: pytest.CaptureFixture[str], suite: Suite, tmp_path: Path) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["summary"] += [{**raw["summary"][-1], "case": "gone"}]

    code, _, err = run(capsys, suite, base(suite[1], tmp_path / "base.json", change))
    assert code == 1
    assert "gone at 2 steps: ngram_tv was " in err
    assert err.endswith(", and is missing now\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "has schema_version 99, this fewstep reads"),
        ({"suite": {"name": "other"}}, "--compare: the earlier results are a full run of suite 'other'"),
        ({"suite": {"quick": True}}, "--compare: the earlier results are a quick run of suite 'tiny'"),
        ({"suite": {"samples": 7}}, "--compare: the earlier results have 7 samples in each row, this run 60"),
        ({"suite": {"data": "abc"}}, "--compare: the earlier results are about other data"),
        ({"rows": "none"}, "is damaged (rows: "),
    ],
)
def test_a_base_of_something_else(
    capsys: pytest.CaptureFixture[str], suite: Suite, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    def update(raw: dict[str, Any]) -> None:
        for key, value in change.items():
            raw[key] = {**raw[key], **value} if isinstance(value, dict) else value

    refused(capsys, suite, base(suite[1], tmp_path / "base.json", update), message)


def test_no_base(capsys: pytest.CaptureFixture[str], suite: Suite, tmp_path: Path) -> None:
    refused(capsys, suite, tmp_path / "no.json", f"error: cannot read '{tmp_path / 'no.json'}': No such file")
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "empty" / "results.json"
    refused(capsys, suite, tmp_path / "empty", f"error: cannot read '{missing}': No such file")
    (tmp_path / "torn.json").write_text('{"suite": ')
    refused(capsys, suite, tmp_path / "torn.json", f"error: '{tmp_path / 'torn.json'}' is damaged (")


def refused(capsys: pytest.CaptureFixture[str], suite: Suite, compared: Path, message: str) -> None:
    """Exit code 2, one sentence, and nothing was run or written."""
    shutil.rmtree(suite[1] / "runs")
    before = sorted(path.name for path in suite[1].iterdir())
    code, out, err = run(capsys, suite, compared)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in suite[1].iterdir()) == before
    (suite[1] / "runs").mkdir()
