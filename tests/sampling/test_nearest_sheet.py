"""The sheet that shows samples above their nearest training images."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision.io import read_image

from fewstep.data.images.digits import Digits
from fewstep.data.synthetic.markov import Markov
from fewstep.sampling.sheets import nearest_training, save_nearest_sheet


def test_copies_stand_above_what_they_copy(tmp_path: Path) -> None:
    """Twelve training images and one with a changed pixel: its nearest one is the one that was changed."""
    digits = Digits()
    samples = digits.train[100:113].clone()
    samples[12, 0] = (samples[12, 0] + 1) % 16
    assert nearest_training(digits, samples).tolist() == list(range(100, 113))
    file = save_nearest_sheet(tmp_path / "deep" / "sheet", digits, samples)
    assert file == tmp_path / "deep" / "sheet.png"
    picture = read_image(str(file))
    height = (picture.shape[1] - 3) // 4  # four rows of cells: ten samples, ten neighbours, three samples, three
    first, second, third, fourth = (picture[:, i * height : (i + 1) * height] for i in range(4))
    assert torch.equal(first, second), "copies"
    assert not torch.equal(third, fourth)
    assert not torch.equal(first, third)


def test_other_data_have_none(tmp_path: Path) -> None:
    source = Markov(Markov.Config(size=8))
    assert save_nearest_sheet(tmp_path / "sheet", source, source.train) is None
    assert not any(tmp_path.iterdir())
