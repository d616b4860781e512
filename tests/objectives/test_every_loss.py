"""Losses and gradients of every objective are those of the same loss by plain autograd."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.objectives.base import OBJECTIVES, Phase
from fewstep.predictions import base as module
from fewstep.predictions.lazy import Term
from fewstep.testing.objectives import _processes, _recipe, _run, _silent, _train
from fewstep.training.trainer import Trainer

SMALL = {"shared_noise": {"groups": 3}, "rectified": {"pairs": 64, "teacher_steps": 4}}
CASES = [
    *({"type": name, **SMALL.get(name, {})} for name in OBJECTIVES.names()),
    {"type": "denoising", "loss": "bound"},
    {"type": "dmmd", "updates": "simultaneous"},
    {"type": "dmmd", "updates": "simultaneous", "aux_target": "hard", "regulariser": 0.5},
    {"type": "dmmd", "teacher_temperature": 0.8, "teacher_top_p": 0.9, "loss": "squared_error"},
    {"type": "knowledge_distillation", "data_weight": 0.5},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_the_gradient_is_that_of_autograd(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for process in _processes(settings):
        teacher = _train(_recipe("denoising", process, 1, None), tmp_path / process / "teacher")
        recipe = _recipe(settings, process, 100, teacher.run.path)
        trainer = Trainer.from_recipe(recipe, _run(recipe, tmp_path / process / "run"), echo=_silent)
        trainer.objective.setup(trainer.ctx)
        torch.manual_seed(0)
        with torch.no_grad():  # equal networks may give no gradient
            for role in trainer.roles.values():
                for parameter in role.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for phase in trainer.objective.phases():
            found = derivatives(trainer, phase)
            with monkeypatch.context() as patch:
                patch.setattr(module, "LazyValues", plain)
                expected = derivatives(trainer, phase)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                role = [x for n, x in expected.items() if n.split(".")[0] == name.split(".")[0]]
                atol = 1e-5 * max(float(x.abs().max()) for x in role)
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=atol, msg=lambda m, n=name: n + m)


def plain(terms: list[Term]) -> Tensor:
    """Values of tokens that are computed at once, as autograd differentiates them."""
    return terms[0][1].tensor()


def derivatives(trainer: Trainer, phase: Phase) -> dict[str, Tensor]:
    """The loss of a phase, and its gradient by each parameter."""
    for name, role in trainer.roles.items():
        role.take_gradients(name in phase.train)
        role.zero_grad()
    state = copy.deepcopy(trainer.objective.state_dict())
    batch = trainer.ctx.batch = trainer.batch(torch.arange(8))  # makes the same random numbers in each call
    loss = trainer.objective.loss(phase, batch, trainer.ctx).loss
    loss.backward()
    trainer.objective.load_state_dict(state)
    named = ((f"{name}.{n}", p) for name, role in trainer.roles.items() for n, p in role.named_parameters())
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in named if p.grad is not None}}
