"""An auxiliary that learns a difference of low rank: it begins as the teacher, and shares the teacher's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.low_rank import LowRankDenoiser, LowRankLinear, adapt
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.testing import check_objective
from fewstep.training.launch import launch
from fewstep.training.trainer import Trainer

SMALL = ("train.steps=4", "train.log_every=2", "train.checkpoint_every=2", "train.device=cpu", "watch.times=0")


def pair(rank: int, backbone: str = "dit") -> tuple[NetworkDenoiser, LowRankDenoiser]:
    """A teacher with random weights, and a low-rank denoiser that starts from it."""
    process, tokens = PROCESSES.build("masked", vocab_size=5), TokenSpace(6, 5, 8)
    config = {"type": backbone, "width": 16, "depth": 2, "heads": 2}
    torch.manual_seed(0)
    teacher = NetworkDenoiser(BACKBONES.build(config, tokens=tokens), process)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    ours = LowRankDenoiser(BACKBONES.build(config, tokens=tokens), process)
    adapt(ours, rank)
    ours.start_from(teacher)
    return teacher, ours


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(6, (3, 8), generator=generator), torch.tensor([0.2, 0.5, 0.9])


@pytest.mark.parametrize("backbone", ["dit", "transformer"])
def test_it_begins_as_the_network_that_it_starts_from(backbone: str) -> None:
    teacher, ours = pair(2, backbone)
    x, t = inputs()
    assert torch.equal(ours.backbone.head(ours.backbone(x, t)), teacher.backbone.head(teacher.backbone(x, t)))


def test_gradients_are_those_of_the_product() -> None:
    """Of W + U D by U and D: those by W, times D and U."""
    teacher, ours = pair(3)
    layers = {name: layer for name, layer in ours.backbone.named_modules() if isinstance(layer, LowRankLinear)}
    with torch.no_grad():
        for layer in layers.values():
            layer.up.normal_()
    merged, _ = pair(3)
    with torch.no_grad():
        for name, layer in layers.items():
            merged.backbone.get_submodule(name).weight.add_(layer.up @ layer.down)
    teacher.take_gradients(False)
    ours.take_gradients(True)
    x, t = inputs()
    for network in (ours, merged):
        network.backbone.head(network.backbone(x, t)).square().sum().backward()
    for name, layer in layers.items():
        full = merged.backbone.get_submodule(name).weight.grad
        scale = float(full.abs().max())
        torch.testing.assert_close(layer.up.grad, full @ layer.down.T, rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(layer.down.grad, layer.up.T @ full, rtol=1e-4, atol=1e-5 * scale)
        assert layer.weight.grad is None


def test_only_the_difference_takes_memory() -> None:
    """Weights are the teacher's own, in the same memory; what is trained has 2 R numbers a row and column."""
    teacher, ours = pair(2)
    ours.take_gradients(True)
    theirs = dict(teacher.backbone.named_parameters())
    for name, parameter in ours.backbone.named_parameters():
        assert parameter.requires_grad == name.endswith((".up", ".down"))
        if not parameter.requires_grad:
            assert parameter is theirs[name]
    ours.take_gradients(False)
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_training_changes_the_difference_and_not_the_teacher(tmp_path: Path) -> None:
    launch("smoke-teacher", run_dir=tmp_path / "teacher", sets=list(SMALL))
    loaded = load_recipe("smoke-dmmd", [*SMALL, "objective.auxiliary_rank=2"], teacher=str(tmp_path / "teacher"))
    trainer = Trainer.from_recipe(loaded.recipe, RunDir.create("run", tmp_path / "run"), echo=lambda line: None)
    before = {name: weight.clone() for name, weight in trainer.roles["teacher"].state_dict().items()}
    trainer.fit()
    after = trainer.roles["teacher"].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    auxiliary = trainer.roles["auxiliary"]
    assert any(layer.up.abs().max() > 0 for layer in auxiliary.modules() if isinstance(layer, LowRankLinear))
    state = trainer.updates.optimizers["auxiliary"].state
    trained = [parameter for parameter in auxiliary.parameters() if parameter in state]
    whole = sum(parameter.numel() for parameter in trainer.roles["teacher"].parameters())
    assert 0 < sum(parameter.numel() for parameter in trained) < whole


def test_the_objective_keeps_its_contract_with_it() -> None:
    check_objective({"type": "dmmd", "auxiliary_rank": 2})


def test_the_rank_is_at_most_that_of_the_layer() -> None:
    _, ours = pair(1000)
    assert all(
        layer.down.shape[0] == min(layer.in_features, layer.out_features)
        for layer in ours.backbone.modules()
        if isinstance(layer, LowRankLinear)
    )
