"""`benchmarks/speed`: its rows, their comparison with a base, and its parts in the quick form."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fewstep.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks/speed"
BASE = ROOT / "benchmarks/speed/base.json"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    from importlib import import_module

    return import_module("rows")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "run.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_row_is_median_and_quartiles_of_its_rounds(rows: ModuleType) -> None:
    row = rows.Row.of("part", "name", [5.0, 1.0, 2.0, 4.0, 3.0])
    assert (row.value, row.low, row.high, row.rounds) == (3.0, 2.0, 4.0, 5)
    assert rows.Row.of("part", "name", [2.0]).high == 2.0


@pytest.mark.parametrize(
    ("value", "more_is_better", "misses"), [(1.056, False, True), (1.054, False, False), (1.03, True, True)]
)
def test_a_goal_is_missed_by_the_digits_that_are_shown(
    rows: ModuleType, value: float, more_is_better: bool, misses: bool
) -> None:
    goal = 1.04 if more_is_better else 1.05
    row = rows.Row.of("part", "name", [value], goal=goal, more_is_better=more_is_better)
    assert row.misses is misses
    assert ("**" in rows.table([row])) is misses


def test_each_round_calls_all_in_an_order_of_its_own(rows: ModuleType) -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    values = rows.interleaved(calls, 8)
    assert {name: len(times) for name, times in values.items()} == {"a": 8, "b": 8, "c": 8}
    assert len({"".join(order[i : i + 3]) for i in range(0, 27, 3)}) > 1
    assert rows.paired([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_a_comparison_finds_what_is_worse_or_missing(rows: ModuleType) -> None:
    less = rows.Row.of("a", "less", [1.0], tolerance=0.1)
    more = rows.Row.of("a", "more", [1.0], tolerance=0.1, more_is_better=True)
    other = rows.Row.of("b", "not measured", [1.0])
    base = [less, more, other]
    for now, good in (
        ([less, more], True),
        ([replace(less, value=1.09), replace(more, value=0.91)], True),
        ([replace(less, value=1.11), more], False),
        ([less, replace(more, value=0.89)], False),
        ([replace(less, value=0.1), replace(more, value=9.0)], True),
        ([less], False),
    ):
        text, within = rows.compare(now, base, {"a"})
        assert within is good
        assert "not measured" not in text
    assert "| new |" in rows.compare([*base, replace(less, name="added")], base, {"a", "b"})[0]


def test_rows_are_read_as_they_were_written(rows: ModuleType, tmp_path: Path) -> None:
    kept = [rows.Row.of("a", "name", [1.0, 2.0], goal=1.5)]
    rows.write(tmp_path / "folder/results.json", kept, {"quick": True})
    assert rows.read(tmp_path / "folder/results.json") == (kept, {"quick": True})
    (tmp_path / "broken.json").write_text('{"rows": [{"part": 1}]}')
    for name, message in (("absent.json", "cannot read"), ("broken.json", "is damaged")):
        with pytest.raises(UserError, match=f"^--compare: .*{message}"):
            rows.read(tmp_path / name)


@pytest.mark.slow  # make bench-quick does so too
def test_waits_are_those_of_the_base(tmp_path: Path) -> None:
    """Counts do not depend on the machine, so one more than in the base is a fault."""
    done = run("waits", "--quick", "--out", str(tmp_path), "--compare", str(BASE))
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(BASE.read_text())
    next(row for row in content["rows"] if "dmmd, masked" in row["name"])["value"] -= 1
    (tmp_path / "base.json").write_text(json.dumps(content))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert any(row["value"] > 0 for row in rows)
    assert run("waits", "--quick", "--out", str(tmp_path), "--compare", str(tmp_path / "base.json")).returncode == 1


def test_a_wrong_name_or_base_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    done = run("nothing", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "there is no suite or part 'nothing'" in done.stderr
    done = run("waits", "--out", str(tmp_path), "--compare", str(tmp_path / "absent.json"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: --compare: cannot read")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_all_parts_run_in_the_quick_form(tmp_path: Path) -> None:
    done = run("--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    parts = {row["part"] for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert parts == {
        "steps",
        "trainer",
        "sampling",
        "blocks",
        "losses",
        "shares",
        "slopes",
        "startup",
        "teachers",
        "waits",
    }
    assert (
        subprocess.run(
            [sys.executable, str(FOLDER / "picture.py"), str(tmp_path / "results.json"), str(tmp_path / "shares.png")],
            check=False,
        ).returncode
        == 0
    )
    assert (tmp_path / "shares.png").stat().st_size > 10_000
