"""A small network in the place of Inception, for tests of FID; without the extra `fid` they are skipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Bytes [N, 3, H, W] -> 12 features [N, 12], by weights that are always the same."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 12, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        return self.body(images.float() / 255)


def use_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the metric `fid` ask it, until the test ends."""
    fid = pytest.importorskip("torchmetrics.image.fid", reason="pip install 'fewstep[fid]'")
    pytest.importorskip("torch_fidelity", reason="pip install 'fewstep[fid]'")
    from fewstep.metrics.images import fid as ours

    def small(weights: str | None) -> Any:
        return fid.FrechetInceptionDistance(SmallNetwork(), reset_real_features=False)

    monkeypatch.setattr(ours, "inception", small)
    ours._with_training_images.cache_clear()
