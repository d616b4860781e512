"""Watching a distillation: samples along the way, and the alarm when they become all alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.training.launch import fit
from fewstep.training.watch import disagreement


def test_disagreement_by_hand() -> None:
    assert disagreement(torch.tensor([[0, 1], [0, 1], [0, 1]]), 2) == 0
    assert disagreement(torch.tensor([[0, 0], [1, 0]]), 2) == pytest.approx(0.5)
    assert disagreement(torch.tensor([[0], [1], [2]]), 3) == 1
    assert disagreement(torch.tensor([[0], [0], [1]]), 2) == pytest.approx(2 / 3)


def test_disagreement_does_not_depend_on_the_number_of_samples() -> None:
    x = torch.randint(4, (40_000, 3), generator=torch.Generator().manual_seed(0))
    few = torch.tensor([disagreement(part, 4) for part in x.split(8)]).mean()
    assert few == pytest.approx(disagreement(x, 4), abs=0.01)
    assert disagreement(x, 4) == pytest.approx(0.75, abs=0.01)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "run"
    fit(load_recipe("coins-teacher", ["train.steps=150"]), RunDir.create("t", path), echo=lambda line: None)
    return path


def distil(teacher: Path, path: Path, *sets: str) -> tuple[RunDir, list[str]]:
    said: list[str] = []
    run = RunDir.create("student", path)
    loaded = load_recipe("coins-dmmd", ["train.steps=20", "train.log_every=5", *sets], teacher=str(teacher))
    fit(loaded, run, echo=said.append)
    return run, said


def rows(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def test_sheets_and_diversity_along_the_way(teacher: Path, tmp_path: Path) -> None:
    run, said = distil(teacher, tmp_path / "run", "watch.times=2")
    assert sorted(file.name for file in run.samples.iterdir()) == ["watch-00000010.txt", "watch-00000020.txt"]
    seen = [row["step"] for row in rows(run) if "watch/diversity" in row]
    assert seen == [10, 20]
    assert not [line for line in said if "collapsing" in line]
    assert 0.7 < rows(run)[-1]["watch/diversity"] < 1.3


def test_watching_changes_nothing(teacher: Path, tmp_path: Path) -> None:
    watched, _ = distil(teacher, tmp_path / "watched", "watch.times=4")
    alone, _ = distil(teacher, tmp_path / "alone", "watch.times=0")
    assert not alone.samples.exists()
    ours, theirs = (open_model(run.path, weights="raw").denoiser.state_dict() for run in (watched, alone))
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


def test_the_alarm_is_told_once_samples_are_all_alike(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_alike(samples: Tensor, vocab_size: int) -> float:
        return disagreement(samples if len(samples) > 64 else samples[:1].expand_as(samples), vocab_size)

    monkeypatch.setattr("fewstep.training.watch.disagreement", all_alike)
    run, said = distil(teacher, tmp_path / "run", "watch.times=1")
    (warning,) = [line for line in said if "collapsing" in line]
    assert warning.startswith("warning: step 20: the student's samples are 0% as diverse as the data (alarm below 70%)")
    assert str(run.samples) in warning
    assert warning in run.log.read_text()


def test_teachers_are_not_watched(teacher: Path) -> None:
    assert not RunDir(teacher).samples.exists()
