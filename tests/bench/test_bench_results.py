"""The results file: whole at any moment, and refused where it cannot be understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.bench.results.results import Results
from fewstep.core.errors import UserError


def test_round_trip(finished: Path, tmp_path: Path) -> None:
    results = Results.load(finished / "results.json")
    results.save(tmp_path / "deep" / "results.json")
    assert Results.load(tmp_path / "deep" / "results.json") == results
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]


def edited(finished: Path, tmp_path: Path, **changes: object) -> Path:
    raw = json.loads((finished / "results.json").read_text())
    path = tmp_path / "results.json"
    path.write_text(json.dumps({**raw, **changes}))
    return path


def test_another_version_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="schema_version 5, this fewstep reads 1, 2, 3 and 4"):
        Results.load(edited(finished, tmp_path, schema_version=5))


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("benchmarks/results/*/*.json")), ids=lambda path: path.parent.name
)
def test_committed_results_can_be_read(path: Path) -> None:
    """Version 1 too, which knew neither data nor code."""
    results = Results.load(path)
    assert results.rows
    if json.loads(path.read_text())["schema_version"] == 1:
        assert (results.suite.data, results.suite.code) == (None, None)


def test_a_wrong_value_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is damaged \(rows: .*delete it"):
        Results.load(edited(finished, tmp_path, rows=3))


@pytest.mark.parametrize("text", ["", '{"schema_version": 1', "[]"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"damaged|schema_version None"):
        Results.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        Results.load(tmp_path / "results.json")


def test_a_write_that_fails_leaves_the_old_file(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, path = Results.load(finished / "results.json"), tmp_path / "results.json"
    results.save(path)
    before = path.read_bytes()

    def full_disk(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("fewstep.runtime.files.publish", full_disk)
    with pytest.raises(OSError, match="no space"):
        results.model_copy(update={"commit": "other"}).save(path)
    assert path.read_bytes() == before
