"""Learning rates: the values of torch's own schedulers, a floor, and WSD's three parts."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from fewstep.core.errors import RecipeError
from fewstep.recipe import load_recipe
from fewstep.recipe.models import OptimSection
from fewstep.training.optim import learning_rate

STEPS = 40


def ours(**settings: Any) -> list[float]:
    return [learning_rate(OptimSection(lr=0.3, **settings), update, STEPS) for update in range(STEPS)]


def torchs(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = make(optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is optimised here
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return rates


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_rates_are_those_of_torch(floor: float) -> None:
    lr = torch.optim.lr_scheduler
    cosine = torchs(lambda optimizer: lr.CosineAnnealingLR(optimizer, STEPS, eta_min=0.3 * floor))
    assert ours(decay="cosine", floor=floor) == pytest.approx(cosine, rel=1e-9)
    linear = torchs(lambda optimizer: lr.LinearLR(optimizer, 1.0, floor, STEPS))
    assert ours(decay="linear", floor=floor) == pytest.approx(linear, rel=1e-9)

    def wsd(optimizer: torch.optim.Optimizer) -> Any:
        parts = [lr.ConstantLR(optimizer, 1.0, 30), lr.LinearLR(optimizer, 1.0, floor, 10)]
        return lr.SequentialLR(optimizer, parts, milestones=[30])

    assert ours(decay="wsd", decay_share=0.25, floor=floor) == pytest.approx(torchs(wsd), rel=1e-9)


def test_parts_follow_the_warm_up() -> None:
    rates = ours(decay="wsd", decay_share=0.5, warmup_steps=8)
    assert rates[:8] == pytest.approx([0.3 * (i + 1) / 8 for i in range(8)])
    assert rates[8:24] == [0.3] * 16
    assert rates[24:] == pytest.approx([0.3 * (1 - i / 16) for i in range(16)])


def test_without_a_floor_rates_are_what_they_were() -> None:
    import math

    for update, (linear, cosine) in enumerate(zip(ours(decay="linear"), ours(decay="cosine"), strict=True)):
        assert linear == 0.3 * (1 - update / STEPS)
        assert cosine == 0.3 * 0.5 * (1 + math.cos(math.pi * (update / STEPS)))
    assert ours() == [0.3] * STEPS


def test_a_floor_needs_a_decay() -> None:
    load_recipe("smoke-teacher", ["optim.floor=0.1", "optim.decay=wsd"])
    with pytest.raises(RecipeError, match=r"optim.floor: is where a decay ends, .* set optim.decay"):
        load_recipe("smoke-teacher", ["optim.floor=0.1", "optim.decay=constant"])
