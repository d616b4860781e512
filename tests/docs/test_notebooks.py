"""The notebooks run as they are, begin with an installation, and are stored without outputs."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
_SECONDS = 120
"""Limit of a cell on a busy machine; on an idle core both notebooks take less than a minute."""


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells with code."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_there_are_two() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["own-objective", "quickstart"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_is_ready_for_colab(notebook: Path) -> None:
    first, *others = cells(notebook)
    assert '%pip install -q "fewstep[notebook]"' in "".join(first["source"])
    assert "%pip" not in "".join(line for cell in others for line in cell["source"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in (first, *others))


@pytest.mark.medium
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the packages nbclient and ipykernel")
    if importlib.util.find_spec("ipykernel") is None:
        pytest.skip("needs the package ipykernel")
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "framework"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    content = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(
        content, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = json.dumps([cell.get("outputs", []) for cell in content.cells])
    assert '"text/html"' in shown, "results show themselves"
    claims = {"quickstart": "student, 1 evaluation", "own-objective": "nats a token"}
    assert claims[notebook.stem] in shown
