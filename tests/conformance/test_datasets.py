"""Every registered dataset keeps its contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from local_data import write_chorales, write_cifar10, write_mnist, write_pictures, write_tokenizer
from safetensors.torch import save_file
from torch import Tensor

from fewstep.data.base import DATASETS, Codec
from fewstep.data.codec import codec_problem
from fewstep.data.synthetic.coins import Coins
from fewstep.testing.datasets import check_dataset

TEXT = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 40


@pytest.mark.parametrize("name", DATASETS.names())
def test_dataset_conforms(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    save_file({"tokens": torch.arange(20).view(5, 4) % 7}, tmp_path / "tokens.safetensors")
    if name == "vq_tokens":
        write_tokenizer(tmp_path / "tokenizer")
    needed = {
        "text": {"path": str(tmp_path / "text.txt"), "length": 32},
        "corpus": {"path": str(tmp_path / "text.txt"), "documents": "line", "prepared": str(tmp_path / "prepared")},
        "markov": {"size": 256},
        "mnist": {"path": str(write_mnist(tmp_path / "mnist")), "size": 14},
        "fashion_mnist": {"path": str(write_mnist(tmp_path / "fashion")), "flip": True},
        "cifar10": {"path": str(write_cifar10(tmp_path / "cifar10")), "flip": True, "shift": 4},
        "image_folder": {"path": str(write_pictures(tmp_path / "pictures")), "size": 8, "levels": 4},
        "chorales": {"path": str(write_chorales(tmp_path / "chorales.json"))},
        "vq_tokens": {"images": "digits", "tokenizer": {"run": str(tmp_path / "tokenizer")}},
        "token_ids": {"path": str(tmp_path / "tokens.safetensors"), "vocab_size": 7, "length": 4},
    }
    check_dataset({"type": name, **needed.get(name, {})})


def test_text_in_pieces_conforms(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    path = str(tmp_path / "text.txt")
    check_dataset({"type": "text", "path": path, "length": 32, "tokenizer": "sentencepiece", "pieces": 60})


class Forgetful(Coins):
    """Shows samples by a letter that its `codec` does not carry."""

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        self.letters = "TH"

    def to_text(self, samples: Tensor) -> list[str]:
        return ["".join(self.letters[token] for token in row) for row in samples.tolist()]


class Changed(Forgetful):
    """Carries another letter."""

    def restore(self, codec: Codec) -> None:
        self.letters = "HT"


class Hoarding(Coins):
    """Takes its training data along."""

    def restore(self, codec: Codec) -> None:
        self.train = Coins().train


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Coins, None),
        (Forgetful, "must carry all that samples are shown by"),
        (Changed, "samples look different without the training data"),
        (Hoarding, "must leave `train` alone"),
    ],
)
def test_a_codec_that_does_not_carry_all_is_found(kind: type[Coins], told: str | None) -> None:
    problem = codec_problem(kind())
    assert problem is None if told is None else told in str(problem)
