"""Memory that runs out in a training: the message names the largest part, and the switch that halves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.objectives.denoising import Denoising
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.exhausted import explain
from fewstep.training.trainer import Trainer


def trainer(folder: Path, *changes: str) -> Trainer:
    return Trainer.from_recipe(
        load_recipe("smoke-teacher", changes).recipe, RunDir.create("run", folder), echo=lambda line: None
    )


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()])
def test_a_step_says_what_took_most(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def loss(*args: object) -> None:
        raise error

    monkeypatch.setattr(Denoising, "loss", loss)
    training = trainer(tmp_path / "run")
    with pytest.raises(OperationError, match=r"^out of memory at step 1: the largest part are .* MB\); (set|halve) "):
        training.fit()
    assert "out of memory at step 1" in training.run.status["error"]


def test_the_largest_part_decides_the_switch(tmp_path: Path) -> None:
    training = trainer(tmp_path / "run", "train.batch_size=8")
    weights = 5 * sum(p.numel() for p in training.roles["student"].parameters()) * 4 / 2**20

    def text(peak: float, size: int = 8, parts: int = 1) -> str:
        return explain(training.roles, training.trained, peak, size, parts)

    assert "networks, gradients and optimisers" in text(weights).split(";")[0]
    assert text(weights).endswith("halve backbone.depth")
    assert "activations of a batch" in text(1000 * weights + 1000).split(";")[0]
    assert "train.accumulate to 4" in text(1000 * weights + 1000, parts=2)
    assert text(1000 * weights + 1000, size=2, parts=2).endswith("set backbone.activation_checkpointing to true")


def test_weights_count_as_often_as_they_are_held(tmp_path: Path) -> None:
    """Weights, gradients, two moments and the average of a student; a teacher's weights alone."""
    training = trainer(tmp_path / "run")
    student = training.roles["student"]
    size = sum(p.numel() for p in student.parameters()) * 4 / 2**20
    text = explain({"student": student, "teacher": student}, ["student"], 0.0, 8, 1)
    assert f"optimisers ({6 * size:,.0f} MB" in text or f"optimisers: {6 * size:,.0f} MB" in text
