"""Sheets of samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.sampling.sheets import _save_picture, image_sheet


@pytest.mark.parametrize(
    ("shape", "columns"), [((5, 1, 8, 8), 10), ((7, 3, 4, 6), 3), ((1, 1, 8, 8), 10), ((4, 3, 60, 60), 2)]
)
def test_sheets_are_those_of_torchvision(shape: tuple[int, ...], columns: int, tmp_path: Path) -> None:
    from torchvision.utils import make_grid, save_image

    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    scale = max(1, -(-48 // shape[-1]))
    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    theirs = make_grid(enlarged, nrow=columns, padding=max(2, scale // 2), pad_value=0.35)
    assert image_sheet(images, columns).equal(theirs)
    save_image(theirs, tmp_path / "theirs.png")
    assert _save_picture(tmp_path / "ours", images, columns).read_bytes() == (tmp_path / "theirs.png").read_bytes()
