"""Every registered dataset keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from local_data import write_chorales, write_cifar10, write_mnist, write_pictures
from safetensors.torch import save_file

from fewstep.data.base import DATASETS
from fewstep.testing import check_dataset

TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 40


@pytest.mark.parametrize("name", DATASETS.names())
def test_dataset_conforms(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    save_file({"tokens": torch.arange(20).view(5, 4) % 7}, tmp_path / "tokens.safetensors")
    needed = {
        "text": {"path": str(tmp_path / "text.txt"), "length": 32},
        "markov": {"size": 256},
        "mnist": {"path": str(write_mnist(tmp_path / "mnist")), "size": 14},
        "fashion_mnist": {"path": str(write_mnist(tmp_path / "fashion")), "flip": True},
        "cifar10": {"path": str(write_cifar10(tmp_path / "cifar10")), "flip": True, "shift": 4},
        "image_folder": {"path": str(write_pictures(tmp_path / "pictures")), "size": 8, "levels": 4},
        "chorales": {"path": str(write_chorales(tmp_path / "chorales.json"))},
        "token_ids": {"path": str(tmp_path / "tokens.safetensors"), "vocab_size": 7, "length": 4},
    }
    check_dataset({"type": name, **needed.get(name, {})})
