"""Conformance of noise inputs.

Shapes: B batch, L tokens, D width, R places of injection.
"""

from __future__ import annotations

import torch

from fewstep.adapters.noise.base import NOISE_INPUTS, NoiseInput, NoiseInputConfig
from fewstep.backbones.base import TokenSpace
from fewstep.core.registry import Raw
from fewstep.testing.backbones import TINY

WIDTH, SITES, BATCH = 8, 3, 5


def check_noise_input(config: Raw, *, tokens: TokenSpace = TINY) -> None:
    """Check a noise input's shapes, randomness and gradients; if it projects, injected once and in every block.

    One whose setting `init_std` is 0 is checked with another value, since it is silent. Noise at the logits must be
    drawn with the residuals: finite, fresh for each sample, and a map of rows to rows.

    Raises:
        AssertionError: a check fails.
    """
    parsed = NOISE_INPUTS.parse(config)
    if not isinstance(parsed, NoiseInputConfig):
        loud = parsed.model_copy(update={"init_std": 0.1}) if getattr(parsed, "init_std", 0.1) == 0 else parsed
        _check(loud, tokens, 1)
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
    _check_logits(noise, tokens)
    if any(True for _ in noise.parameters()):
        torch.autograd.backward(first.pow(2).sum())
    for name, parameter in noise.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert parameter.grad.any(), f"{name} gets a gradient of zero"


def _check_logits(noise: NoiseInput, tokens: TokenSpace) -> None:
    """Noise at the logits comes if it is announced; it is fresh, reproducible and moves rows [N, V] to rows."""
    drawn = noise.draw(BATCH, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.residual, noise(BATCH, torch.Generator().manual_seed(0))), "draw has other residuals"
    assert (drawn.logits is not None) == noise.noises_logits, "noises_logits is not what draw returns"
    if drawn.logits is None:
        return
    numbers = drawn.logits.numbers
    assert numbers.shape[:2] == (BATCH, tokens.length), f"numbers have shape {tuple(numbers.shape)}"
    assert numbers.isfinite().all(), "numbers are not finite"
    assert not torch.allclose(numbers[0], numbers[1]), "samples share their numbers"
    rows = torch.randn(tokens.length, tokens.vocab_size, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    moved = drawn.logits.move(rows, numbers[0])
    assert moved.shape == rows.shape, f"rows become {tuple(moved.shape)}"
    assert moved.isfinite().all(), "logits are not finite"
    assert not torch.allclose(moved.softmax(1), rows.exp()), "the noise moves no row"
