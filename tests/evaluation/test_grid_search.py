"""`fewstep grid` from end to end: a run is measured, and samples are drawn with what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.cli.main import main
from fewstep.grids.files import read_grid_file
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw

Train = Callable[..., RunDir]


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code, *capsys.readouterr()


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_a_run_is_measured_and_sampled(
    process: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("smoke-teacher", "run", f"process.type={process}")
    file = tmp_path / "grid.json"
    args = ("grid", str(run.path), "--steps", "2, 4", "--times", "8", "--samples", "32", "--out", str(file))
    code, out, err = command(capsys, *args)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{run.path}: negative ELBO, nats a sample"
    assert out.splitlines()[-1] == f"wrote {file}"
    grid = read_grid_file(file)
    assert sorted(grid.walks) == [2, 4]
    assert (grid.step, grid.costs.samples, grid.costs.evaluations) == (20, 32, 8)
    assert all(walk.cost <= walk.linear + 1e-6 for walk in grid.walks.values())

    model = open_model(run.path)
    tokens = []
    for config in ("linear", {"type": "measured", "file": str(file)}):
        sampler = SAMPLERS.build({"type": "ancestral", "grid": config})
        drawn = draw(sampler, model.denoiser, 16, steps=4, seed=0, batch_size=8)
        assert drawn.nfe == drawn.passes == 4
        tokens.append(drawn.tokens)
    assert torch.equal(*tokens) == (grid.walks[4].times == tuple(sampler_times(4)))


def sampler_times(steps: int) -> list[float]:
    return [1 - index / steps for index in range(steps + 1)]


def test_without_a_file_it_is_kept_with_the_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("smoke-teacher", "run")
    code, out, _ = command(capsys, "grid", str(run.path), "--steps", "2", "--times", "4", "--samples", "8", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((run.path / "grid.json").read_text())


def test_what_cannot_be_measured(
    train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = train("smoke-teacher", "run")
    code, _, err = command(capsys, "grid", str(run.path), "--steps", "2", "--device", "cuda")
    assert (code, err) == (2, "error: --device: is cuda, but torch finds no GPU here; use 'auto' or 'cpu'\n")
    assert command(capsys, "grid", "nowhere", "--steps", "2")[0] == 2
    assert command(capsys, "grid", "nowhere", "--steps", "two")[0] == 2
    code, _, err = command(capsys, "grid", "nowhere", "--steps", "4,128")
    assert code == 2
    assert err == "error: a walk of 128 steps needs as many fine ones, and there are 64; raise --times\n"
