"""The step input: a student that is told how far its step goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.samplers.base import SAMPLERS
from fewstep.training.trainer import Trainer

TOKENS = TokenSpace(num_states=4, vocab_size=3, length=6)


def denoiser(*, init_std: float = 1.0, told: bool = True, noise: str | None = None) -> NetworkDenoiser:
    torch.manual_seed(0)
    process = PROCESSES.build("masked", vocab_size=3)
    backbone = BACKBONES.build({"type": "transformer", "width": 16, "depth": 2, "heads": 2}, tokens=TOKENS)
    step = StepInput(StepInputConfig(init_std=init_std), backbone.width) if told else None
    adapter = None
    if noise:
        config = NOISE_INPUTS.parse({"type": "gaussian", "inject": noise})
        adapter = NOISE_INPUTS.build(config, tokens=TOKENS, width=16, sites=backbone.residual_sites)
    return NetworkDenoiser(backbone, process, adapter, step)


X, T = torch.full((2, 6), 3), torch.tensor([1.0, 1.0])


def rows(model: NetworkDenoiser, s: Any) -> torch.Tensor:
    return model(X, T, torch.tensor(s), generator=torch.Generator().manual_seed(1)).log_probs()


@pytest.mark.parametrize("noise", [None, "once", "every_block"])
def test_the_length_matters_and_only_the_length(noise: str | None) -> None:
    model = denoiser(noise=noise)
    assert not torch.allclose(rows(model, [0.5, 0.5]), rows(model, [0.75, 0.75]), atol=1e-3)
    shifted = model(X, T - 0.25, torch.tensor([0.25, 0.25]), generator=torch.Generator().manual_seed(1)).log_probs()
    torch.testing.assert_close(rows(model, [0.5, 0.5]), shifted)


def test_a_linear_length_is_continuous_where_it_ends() -> None:
    """A step of 2^-10 is nearly none where lengths are linear, and far from one of 2^-8 where they are logarithms."""
    torch.manual_seed(0)
    gaps = {}
    for form in ("linear", "log"):
        step = StepInput(StepInputConfig(form=form, init_std=1.0), 16)
        none, short, half = step(torch.tensor([0.0, 2.0**-8, 0.5])).detach()[0, :, 0]
        gaps[form] = float((short - none).norm() / (half - none).norm())
    assert gaps["linear"] < 0.05 < 0.2 < gaps["log"]


def test_each_sample_has_its_own_length() -> None:
    model = denoiser()
    both = rows(model, [0.5, 0.75]).view(2, 6, 3)
    torch.testing.assert_close(both[0], rows(model, [0.5, 0.5]).view(2, 6, 3)[0])
    torch.testing.assert_close(both[1], rows(model, [0.75, 0.75]).view(2, 6, 3)[1])


def test_it_starts_as_the_teacher() -> None:
    torch.testing.assert_close(rows(denoiser(init_std=0.0), [0.5, 0.5]), rows(denoiser(told=False), [0.5, 0.5]))


def test_a_step_must_be_told() -> None:
    with pytest.raises(ValueError, match="call it with s"):
        denoiser()(X, T)


def test_samplers_tell_it() -> None:
    samples = SAMPLERS.build("ancestral").sample(denoiser(), 5, steps=3, generator=torch.Generator().manual_seed(0))
    assert samples.x.shape == (5, 6)


@pytest.mark.medium
def test_one_student_is_trained_for_a_range_of_steps(tmp_path: Path) -> None:
    base = {
        "data": {"type": "markov", "vocab_size": 4, "length": 6, "size": 64},
        "process": "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "train": {"steps": 4, "batch_size": 8, "device": "cpu"},
    }

    def train(name: str, **more: Any) -> Trainer:
        recipe = parse_recipe({"name": name, **base, **more})
        run = RunDir.create(name, tmp_path / name)
        run.resolved.write_text(dump_recipe(recipe))
        trainer = Trainer.from_recipe(recipe, run, echo=lambda line: None)
        trainer.fit()
        return trainer

    train("teacher", objective="denoising")
    student = train(
        "student",
        objective={"type": "dmmd", "k": 2, "k_max": 8, "times": "grid"},
        step_input={},
        teacher={"run": str(tmp_path / "teacher")},
    )
    assert student.roles["student"].step_input.project.weight.any()  # type: ignore[union-attr]
    assert student.roles["auxiliary"].step_input.project.weight.any(), "the law that it learns is the step's"  # type: ignore[union-attr]
    assert student.roles["teacher"].step_input is None
    assert open_model(tmp_path / "student").denoiser.step_input is not None
