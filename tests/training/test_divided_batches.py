"""Draws, losses and gradients of a batch do not depend on how it is divided into micro-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.trainer import Trainer

SMALL: dict[str, dict[str, Any]] = {
    "shared_noise": {"groups": 3},
    "rectified": {"pairs": 64, "teacher_steps": 2},
    "dmmd": {"updates": "simultaneous"},
    "didi": {"group": 2, "head_start": 0.0},
    "di4c": {"latents": 3},
}
UNIFORM = {"rectified"}
"""Objectives whose test is of the uniform process; the others' is of masks."""
BY_HALVES = {"dmmd_instant"}
"""Objectives whose loss is a product of means over halves of a batch: such a loss changes with the batch's size."""


def raw(name: str, parts: int, teacher: Path | None = None) -> dict[str, Any]:
    kind = OBJECTIVES.get(name).cls
    recipe: dict[str, Any] = {
        "name": "divided",
        "data": {"type": "markov", "vocab_size": 5, "length": 6, "size": 64},
        "process": "uniform" if name in UNIFORM else "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": {"type": name, **SMALL.get(name, {})},
        "sampler": kind.sampler or "ancestral",
        "train": {"steps": 4, "batch_size": 16, "accumulate": parts, "device": "cpu"},
        "evaluate": {"steps": [1] if kind.sampler == "one_step" else [4]},
    }
    if any(role.network.reads_labels for role in kind.roles.values()):
        recipe["data"] = "digits"
    if any(issubclass(role.network, NetworkAutoencoder) for role in kind.roles.values()):
        recipe["data"] = "digits"
        recipe["backbone"] = {"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": 12, "code_width": 4}
    if any(role.adapters for role in kind.roles.values()):
        recipe["noise_input"] = "stable" if kind.needs_logit_noise else {"type": "gaussian", "channels": 4}
    if teacher is not None:
        recipe["teacher"] = {"run": str(teacher)}
    return recipe


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    paths = {}
    for process in ("masked", "uniform"):
        recipe = raw("denoising", 1) | {"process": process}
        paths[process] = tmp_path_factory.mktemp(process)
        train(recipe, paths[process] / "run").fit()
    return {process: path / "run" for process, path in paths.items()}


def train(recipe: dict[str, Any], path: Path) -> Trainer:
    run = RunDir.create("divided", path)
    parsed = parse_recipe(recipe)
    run.resolved.write_text(dump_recipe(parsed))
    return Trainer.from_recipe(parsed, run, echo=lambda line: None)


def first_steps(trainer: Trainer) -> list[tuple[Tensor, list[Tensor]]]:
    """Loss and gradients of each phase, of the weights and data that the training begins with."""
    trainer.objective.setup(trainer.ctx)
    torch.manual_seed(0)
    with torch.no_grad():  # equal roles may give no gradient, and fresh adapters none either
        for role in trainer.roles.values():
            for parameter in role.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    results = []
    for phase in trainer.objective.phases():
        for name, role in trainer.roles.items():
            role.take_gradients(name in phase.train)
            role.zero_grad()
        loss = trainer._loss(phase)
        weights = [weight for name in phase.train for weight in trainer.roles[name].parameters()]
        results.append((loss, [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]))
    return results


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.names() if name not in BY_HALVES])
def test_losses_and_gradients_are_those_of_the_whole_batch(
    name: str, teachers: dict[str, Path], tmp_path: Path
) -> None:
    teacher = (
        teachers["uniform" if name in UNIFORM else "masked"] if "teacher" in OBJECTIVES.get(name).cls.roles else None
    )
    whole = first_steps(train(raw(name, 1, teacher), tmp_path / "1"))
    for parts in (2, 4):
        divided = first_steps(train(raw(name, parts, teacher), tmp_path / str(parts)))
        for (loss, gradients), (loss_2, gradients_2) in zip(whole, divided, strict=True):
            torch.testing.assert_close(loss_2, loss, rtol=1e-5, atol=1e-6)
            size = max(float(gradient.abs().max()) for gradient in gradients)
            assert size > 0
            for ours, theirs in zip(gradients_2, gradients, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * size)
