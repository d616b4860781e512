"""The script that copies the models of a suite into the package."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from fewstep import Pipeline
from fewstep.bench.results.results import Results
from fewstep.core.errors import UserError
from fewstep.runs.exported import Exported
from fewstep.runs.shipped import read_manifest
from fewstep.runtime.hashing import sha256

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("shipped_models", ROOT / "benchmarks/shipped_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DATA["markov"] = "a source of our own"
    return module


@pytest.mark.medium
def test_teachers_and_students_are_copied_with_digests_and_values(script: Any, finished: Path, tmp_path: Path) -> None:
    results, folder = tmp_path / "out", tmp_path / "models"
    shutil.copytree(finished, results)
    folder.mkdir()
    assert script.ship(results, "float16", folder) == ["tiny-teacher", "tiny-student"]  # and not the oracle
    models = read_manifest(folder).models
    assert {name: (model.suite, model.case) for name, model in models.items()} == {
        "tiny-student": ("tiny", "student"),
        "tiny-teacher": ("tiny", "teacher"),
    }
    rows = [row for row in Results.load(results / "results.json").rows if row.case == "student"]
    for name, model in models.items():
        assert {file: sha256(folder / name / file) for file in model.files} == model.files
        assert sum((folder / name / file).stat().st_size for file in model.files) == model.bytes
        assert Pipeline.from_pretrained(folder / name, device="cpu").sample(1, steps=1).tokens.shape == (1, 6)
        card = (folder / name / "README.md").read_text()
        assert "license: apache-2.0" in card
        assert f'from_pretrained("fewstep/{name}")' in card
        assert "`fewstep benchmark tiny` (case" in card
        assert "a source of our own" in card
    measured = Exported(folder / "tiny-student").config.evaluations
    assert [(row["steps"], row["seed"], row["metrics"]) for row in measured] == sorted(
        (row.steps, row.seed, row.values) for row in rows
    )


@pytest.mark.medium
def test_a_second_call_replaces_what_the_suite_made(script: Any, finished: Path, tmp_path: Path) -> None:
    results, folder = tmp_path / "out", tmp_path / "models"
    shutil.copytree(finished, results)
    folder.mkdir()
    script.ship(results, folder=folder)
    old = read_manifest(folder).models["tiny-teacher"]
    text = (folder / "manifest.json").read_text()
    kept = '"other": ' + old.model_copy(update={"suite": "another"}).model_dump_json()
    (folder / "manifest.json").write_text(text.replace('"models": {', f'"models": {{{kept}, ', 1))
    shutil.copytree(folder / "tiny-teacher", folder / "other")
    read_manifest.cache_clear()
    script.ship(results, folder=folder)
    assert sorted(read_manifest(folder).models) == ["other", "tiny-student", "tiny-teacher"]
    assert (folder / "other").is_dir()
    script.LIMIT, limit = 10, script.LIMIT
    with pytest.raises(UserError, match=r"take [\d,]+ bytes together, more than 10; pass --dtype float16"):
        script.ship(results, folder=folder)
    script.LIMIT = limit
