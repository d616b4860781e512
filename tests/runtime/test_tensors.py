"""Written tensors have the mode of any new file; so has everything that commands write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fewstep.export.write import export_run
from fewstep.runs.folder import RunDir
from fewstep.runtime.tensors import save_tensors
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest


@pytest.fixture(params=[0o022, 0o027, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(file): stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*") if file.is_file()}


def test_tensors(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for _ in range(2):
        save_tensors({"a": torch.ones(2)}, file, {"key": "value"})
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~umask
    assert torch.equal(load_file(file)["a"], torch.ones(2))


def test_runs_samples_and_exports(umask: int, train: Callable[..., RunDir], tmp_path: Path) -> None:
    run = str(train("smoke-teacher", "run").path)
    sample_run(run, SampleRequest(count=2, steps=1, out=str(tmp_path / "samples")))
    export_run(run, str(tmp_path / "export"))
    files = modes(tmp_path)
    assert any(name.endswith("model.safetensors") for name in files)
    assert {mode for name, mode in files.items()} == {0o666 & ~umask}, files
