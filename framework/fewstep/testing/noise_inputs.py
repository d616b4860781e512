"""Conformance of noise inputs.

Shapes: B batch, L tokens, D width, R places of injection.
"""

from __future__ import annotations

import torch

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInputConfig
from fewstep.backbones.base import TokenSpace
from fewstep.core.registry import Raw
from fewstep.testing.backbones import TINY

WIDTH, SITES, BATCH = 8, 3, 5


def check_noise_input(config: Raw, *, tokens: TokenSpace = TINY) -> None:
    """Check a noise input's shapes, randomness and gradients; if it projects, injected once and in every block.

    Raises:
        AssertionError: a check fails.
    """
    parsed = NOISE_INPUTS.parse(config)
    if not isinstance(parsed, NoiseInputConfig):
        _check(parsed, tokens, 1)
        return
    for inject, places in (("once", 1), ("every_block", SITES)):
        _check(parsed.model_copy(update={"inject": inject}), tokens, places)
    silent = NOISE_INPUTS.build(parsed.model_copy(update={"init_std": 0.0}), tokens=tokens, width=WIDTH, sites=SITES)
    assert not silent(BATCH).any(), "init_std 0 does not start at silence"


def _check(config: Raw, tokens: TokenSpace, places: int) -> None:
    noise = NOISE_INPUTS.build(config, tokens=tokens, width=WIDTH, sites=SITES)
    first = noise(BATCH, torch.Generator().manual_seed(0))
    shape = (places, BATCH, tokens.length, WIDTH)
    assert first.shape == shape, f"residuals have shape {tuple(first.shape)}, not {shape}"
    again = noise(BATCH, torch.Generator().manual_seed(0))
    assert torch.equal(first, again), "the same generator gives other noise"
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(noise(BATCH, generator), noise(BATCH, generator)), "noise is not drawn anew at each call"
    assert not torch.allclose(first[0, 0], first[0, 1]), "samples share their noise"
    if places > 1:
        assert not torch.allclose(first[0], first[1]), "places share their projection"
    mean = torch.stack([noise(64, generator).mean((0, 1)) for _ in range(16)]).mean(0)
    assert mean.abs().max() < 0.25 * first.std() + 1e-6, "noise has a mean"
    if any(True for _ in noise.parameters()):
        torch.autograd.backward(first.pow(2).sum())
    for name, parameter in noise.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.any(), f"{name} gets a gradient of zero"
