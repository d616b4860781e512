"""Every registered noise input, and what each of them promises about who shares which numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput
from fewstep.backbones.base import TokenSpace
from fewstep.core.component import ComponentConfig
from fewstep.recipe import parse_recipe
from fewstep.testing.noise_inputs import check_noise_input

SEQUENCE = TokenSpace(num_states=5, vocab_size=4, length=13)
COLOUR = TokenSpace(num_states=5, vocab_size=4, length=5 * 6 * 3, grid=(5, 6, 3))
IMAGE = TokenSpace(num_states=5, vocab_size=4, length=64, grid=(8, 8, 1))


@pytest.mark.parametrize("tokens", [SEQUENCE, COLOUR, IMAGE], ids=["sequence", "colour", "image"])
@pytest.mark.parametrize("name", NOISE_INPUTS.names())
def test_conforms(name: str, tokens: TokenSpace) -> None:
    check_noise_input(name, tokens=tokens)


@pytest.mark.parametrize("options", [{"levels": 1}, {"levels": 2, "weights": [1.0, 0.5]}])
def test_pyramids_conform_with_options(options: dict[str, Any]) -> None:
    check_noise_input({"type": "pyramid", **options}, tokens=COLOUR)


def build(tokens: TokenSpace = IMAGE, **settings: Any) -> NoiseInput:
    torch.manual_seed(0)
    config = NOISE_INPUTS.parse({"init_std": 1.0, **settings})
    return NOISE_INPUTS.build(config, tokens=tokens, width=6, sites=3)


def correlation(noise: NoiseInput, a: int, b: int) -> float:
    """Of the residuals of two positions, over samples and channels."""
    with torch.no_grad():
        drawn = noise(20_000, torch.Generator().manual_seed(1))[0]
    x, y = drawn[:, a], drawn[:, b]
    return float((x * y).mean() / (x.pow(2).mean() * y.pow(2).mean()).sqrt())


def test_gaussian_positions_are_independent() -> None:
    assert abs(correlation(build(type="gaussian"), 0, 1)) < 0.02


@pytest.mark.medium
def test_pyramid_positions_share_the_levels_whose_cell_they_share() -> None:
    """Four levels of 8x8: cells of 1, 2, 4 and 8 pixels. Equal weights make the correlation a count of levels."""
    noise = build(type="pyramid", channels=64)
    scales = torch.stack([p.weight.detach().pow(2).sum() for p in noise.project])  # type: ignore[union-attr, operator]
    shares = scales / scales.sum()
    for other, shared in ((1, shares[1:]), (2, shares[2:]), (4, shares[3:])):
        assert correlation(noise, 0, other) == pytest.approx(float(shared.sum()), abs=0.02)
    assert correlation(build(type="pyramid", levels=2), 0, 63) == pytest.approx(0.0, abs=0.02)


@pytest.mark.medium
def test_weights_scale_the_levels_and_keep_the_variance() -> None:
    def variance(noise: NoiseInput) -> Tensor:
        return noise(5000, torch.Generator().manual_seed(1)).var()

    fine = build(type="pyramid", levels=2, weights=[1.0, 0.0], channels=64)
    assert abs(correlation(fine, 0, 1)) < 0.02
    coarse = build(type="pyramid", levels=2, weights=[0.0, 1.0], channels=64)
    assert correlation(coarse, 0, 1) == pytest.approx(1.0, abs=1e-3)
    for noise in (fine, coarse, build(type="pyramid", channels=64)):
        assert float(variance(noise).detach()) == pytest.approx(64, rel=0.25)


def test_weights_and_levels_must_agree() -> None:
    raw = {
        "name": "x",
        "data": "digits",
        "process": "masked",
        "backbone": "image_transformer",
        "objective": "dmmd",
        "teacher": {"run": "runs/x"},
        "noise_input": {"type": "pyramid", "weights": [1.0, 2.0]},
        "train": {"steps": 1},
    }
    with pytest.raises(Exception, match=r"noise_input\.levels: set the number of levels that the 2 weights are for"):
        parse_recipe(raw)
    raw["noise_input"] = {"type": "pyramid", "levels": 3, "weights": [1.0, 2.0]}
    with pytest.raises(Exception, match=r"noise_input\.weights: 2 weights for 3 levels; give one a level"):
        parse_recipe(raw)


def broken(name: str, forward: Any) -> str:
    base = NOISE_INPUTS.get("gaussian").cls

    @NOISE_INPUTS.register(name)
    class Broken(base):  # type: ignore[misc, valid-type]
        class Config(base.Config):  # type: ignore[misc, name-defined]
            type: str = name

    Broken.forward = forward
    assert issubclass(Broken.Config, ComponentConfig)
    return name


BREAKS = {
    "frozen_noise": (lambda self, n, g=None: type(self).__base__.forward(self, n, torch.Generator()), "drawn anew"),
    "shared_noise": (
        lambda self, n, g=None: type(self).__base__.forward(self, 1, g).expand(-1, n, -1, -1),
        "samples share their noise",
    ),
    "shifted_noise": (lambda self, n, g=None: type(self).__base__.forward(self, n, g) + 0.5, "noise has a mean"),
    "detached_noise": (lambda self, n, g=None: type(self).__base__.forward(self, n, g).detach(), "does not require"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_check_finds_what_is_broken(name: str) -> None:
    with NOISE_INPUTS.snapshot(), pytest.raises((AssertionError, RuntimeError), match=BREAKS[name][1]):
        check_noise_input(broken(name, BREAKS[name][0]))
