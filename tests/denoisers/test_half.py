"""A teacher in bfloat16: half of the memory, and to the bit the same training where products are in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import UserError
from fewstep.denoisers.half import HalfLinear, halve
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import launch
from fewstep.training.trainer import Trainer

SMALL = ("train.steps=4", "train.log_every=2", "train.device=cpu", "watch.times=0")


def network(backbone: str, **settings: object) -> NetworkDenoiser:
    process, tokens = PROCESSES.build("masked", vocab_size=5), TokenSpace(6, 5, 8)
    torch.manual_seed(0)
    config = {"type": backbone, "width": 16, "depth": 2, "heads": 2, **settings}
    denoiser = NetworkDenoiser(BACKBONES.build(config, tokens=tokens), process)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return denoiser.requires_grad_(False).eval()


def rows(denoiser: NetworkDenoiser, autocast: bool) -> torch.Tensor:
    x = torch.randint(6, (3, 8), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return denoiser(x, torch.tensor([0.2, 0.5, 0.9])).log_probs()


@pytest.mark.parametrize("backbone", ["dit", "transformer"])
@pytest.mark.parametrize("tied", [False, True])
def test_under_autocast_it_predicts_the_same_to_the_bit(backbone: str, tied: bool) -> None:
    whole, half = (network(backbone, tie_weights=tied) for _ in range(2))
    halve(half)
    assert torch.equal(rows(whole, True), rows(half, True))


def test_without_autocast_weights_alone_are_rounded() -> None:
    whole, half = network("dit"), network("dit")
    halve(half)
    for name, layer in half.named_modules():
        if isinstance(layer, HalfLinear):
            for parameter in whole.get_submodule(name).parameters():
                parameter.copy_(parameter.bfloat16())
    assert torch.equal(rows(whole, False), rows(half, False))


def test_linear_layers_take_half_of_the_memory_and_share_it() -> None:
    half, other = network("dit"), network("dit")
    layer = other.backbone.head
    shared = torch.nn.Linear(layer.in_features, layer.out_features)
    shared.weight = layer.weight
    halve(other)
    assert shared.weight.dtype == torch.bfloat16
    halve(half)
    layers = [module for module in half.modules() if isinstance(module, HalfLinear)]
    assert len(layers) == 2 * 5 + 2, "four products and a modulation a block; the last modulation and the head"
    assert all(parameter.dtype == torch.bfloat16 for layer in layers for parameter in layer.parameters())


@pytest.mark.parametrize("change", ["objective.regulariser=1.0", "objective.auxiliary_rank=2"])
def test_a_bf16_training_is_the_same_to_the_bit(change: str, tmp_path: Path) -> None:
    launch("smoke-teacher", run_dir=str(tmp_path / "teacher"), sets=list(SMALL))
    weights = []
    for dtype in ("float32", "bfloat16"):
        changes = [*SMALL, "train.precision=bf16", change, f"teacher.dtype={dtype}"]
        loaded = load_recipe("smoke-dmmd", changes, teacher=str(tmp_path / "teacher"))
        trainer = Trainer.from_recipe(loaded.recipe, RunDir.create("run", tmp_path / dtype), echo=lambda line: None)
        trainer.fit()
        weights.append(trainer.ema.weights)
        assert all(weight.dtype == torch.float32 for weight in trainer.ema.weights.values())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("recipe", "precision", "message"),
    [
        ("smoke-dmmd", "fp32", "set train.precision to bf16"),
        ("smoke-dmmd", "auto", "set train.precision to bf16"),
        ("markov-sdtt", "bf16", "replaces its teacher's weights as it trains; set it to float32"),
    ],
)
def test_where_it_does_not_suit_it_is_refused(recipe: str, precision: str, message: str) -> None:
    with pytest.raises(UserError, match=f"teacher.dtype: .*{message}"):
        load_recipe(recipe, [f"train.precision={precision}", "teacher.dtype=bfloat16"], teacher="runs/teacher")
