"""An auxiliary that learns a difference of low rank: it begins as the teacher, and shares the teacher's memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.low_rank import LowRankDenoiser, LowRankLinear, adapt
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.evidence import Output
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
    for rank in (0, 2):
        check_objective({"type": "dmmd", "auxiliary_rank": rank})


def test_the_rank_is_at_most_that_of_the_layer() -> None:
    _, ours = pair(1000)
    assert all(
        layer.down.shape[0] == min(layer.in_features, layer.out_features)
        for layer in ours.backbone.modules()
        if isinstance(layer, LowRankLinear)
    )


def on_the_teachers_trunk(**options: object) -> tuple[NetworkDenoiser, LowRankDenoiser]:
    """A teacher with random weights, and a head of its own on its trunk."""
    process, tokens = PROCESSES.build("uniform", vocab_size=5), TokenSpace(5, 5, 8)
    config = {"type": "dit", "width": 16, "depth": 2, "heads": 2, **options}
    torch.manual_seed(0)
    teacher, ours = (
        kind(BACKBONES.build(config, tokens=tokens), process) for kind in (NetworkDenoiser, LowRankDenoiser)
    )
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert isinstance(ours, LowRankDenoiser)
    adapt(ours, 0)
    ours.start_from(teacher)
    return teacher, ours


@pytest.mark.parametrize("output", ["x_mean", "leave_one_out"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_head_on_the_teachers_trunk_reads_the_teachers_evaluation(output: Output, tied: bool) -> None:
    """It begins as the teacher, and from then on one evaluation of the trunk says what two would say."""
    teacher, ours = on_the_teachers_trunk(tie_weights=tied)
    teacher.output = ours.output = output
    x, t = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.5, 0.9])
    assert torch.equal(ours(x, t).dense_probs(), teacher(x, t).dense_probs())
    ours.take_gradients(True)
    trained = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    assert [parameter.shape for parameter in trained] == [(5, 16), (5,)]
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    before = ours.evaluated
    assert ours.reads(teacher)
    with torch.no_grad():
        theirs = teacher(x, t)
    read, alone = ours.on(theirs), ours(x, t)
    assert ours.evaluated == before + 3, "samples of `alone`"
    torch.testing.assert_close(read.dense_probs(), alone.dense_probs())
    assert not torch.equal(read.dense_probs(), theirs.dense_probs())
    target = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(2))
    for one, other in zip(*(torch.autograd.grad(p.nll(target).mean(), trained) for p in (read, alone)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_head_on_the_teachers_trunk_takes_only_its_own_memory() -> None:
    teacher, ours = on_the_teachers_trunk()
    theirs = {id(parameter) for parameter in teacher.parameters()}
    own = [name for name, parameter in ours.named_parameters() if id(parameter) not in theirs]
    assert own == ["backbone.head.weight", "backbone.head.bias"]
    assert not pair(2)[1].reads(teacher), "a difference in the trunk is another trunk"


def test_a_head_with_an_input_of_its_own_evaluates_its_trunk_itself() -> None:
    teacher, ours = on_the_teachers_trunk()
    ours.step_input = StepInput(StepInputConfig(), 16)
    assert not ours.reads(teacher)


def test_dmmd_trains_a_head_and_evaluates_one_trunk_for_both(tmp_path: Path) -> None:
    """Neither trunk nor teacher moves; the auxiliary evaluates nothing, so a step costs as many evaluations less."""
    launch("smoke-teacher", run_dir=tmp_path / "teacher", sets=list(SMALL))
    loaded = load_recipe("smoke-dmmd", [*SMALL, "objective.auxiliary_rank=0"], teacher=str(tmp_path / "teacher"))
    trainer = Trainer.from_recipe(loaded.recipe, RunDir.create("run", tmp_path / "run"), echo=lambda line: None)
    before = {name: weight.clone() for name, weight in trainer.roles["teacher"].state_dict().items()}
    trainer.fit()
    auxiliary, teacher = trainer.roles["auxiliary"], trainer.roles["teacher"]
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    ours = auxiliary.state_dict()
    moved = {name for name, weight in before.items() if not torch.equal(ours[name], weight)}
    assert moved == {"backbone.head.weight", "backbone.head.bias"}
    assert auxiliary.evaluated == 0 < teacher.evaluated
