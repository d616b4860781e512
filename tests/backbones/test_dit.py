"""The backbone `dit`; that it computes what the public code does is in tests/convert/test_layouts.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.backbones.base import BACKBONES, Backbone
from fewstep.backbones.layers import rotary_table, rotate, rotate_halves
from fewstep.testing.backbones import TINY, check_backbone

SMALL: dict[str, Any] = {"type": "dit", "width": 32, "depth": 2, "heads": 2, "cond_width": 8}


def build(**options: Any) -> Backbone:
    torch.manual_seed(0)
    model = BACKBONES.build({**SMALL, **options}, tokens=TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [{"time_conditioned": True}, {"qk_norm": True, "attention": "math"}, {"tie_weights": True, "mlp_ratio": 2}],
)
def test_conforms_with_every_option(options: dict[str, Any]) -> None:
    check_backbone({**SMALL, **options})


def test_untold_it_is_told_what_a_conditioned_one_is_told_at_zero() -> None:
    """MDLM's weights hold a trained answer to sigma = 0, which must not be skipped."""
    time, untold = build(time_conditioned=True), build()
    x = torch.randint(6, (2, 12))
    with torch.no_grad():
        torch.testing.assert_close(untold(x, torch.ones(2)), time(x, torch.zeros(2)))


def test_time_is_exact_under_autocast() -> None:
    """1e-3 of t near 1 is a large step of sigma, which bfloat16 would round away."""
    model, t = build(time_conditioned=True), torch.tensor([0.998, 0.999])
    with torch.autocast("cpu", torch.bfloat16):
        time = model._embed_time(t)
    assert time.dtype == torch.float32
    torch.testing.assert_close(time, model._embed_time(t))
    assert not torch.equal(time[0], time[1])


def test_both_orders_of_rotary_channels_are_one_rotation() -> None:
    x, table = torch.randn(1, 5, 2, 8), rotary_table(torch.arange(5.0)[:, None], 8, 100.0)
    halves = torch.stack(rotate_halves(x, table).chunk(2, -1), -1).flatten(-2)
    torch.testing.assert_close(halves, rotate(torch.stack(x.chunk(2, -1), -1).flatten(-2), table))


def test_starts_as_the_identity_and_every_part_learns() -> None:
    torch.manual_seed(0)
    model = BACKBONES.build({**SMALL, "time_conditioned": True}, tokens=TINY)
    x, t = torch.randint(6, (3, 12)), torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(model(x, t), model.output_layer.norm_final(model.vocab_embed(x)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.head(model(x, t)).flatten(0, 1), x.flatten() % 5).backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
