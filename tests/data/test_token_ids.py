"""Data of bare token ids: what is refused, and text through a tokenizer's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS

ROWS = torch.tensor([[0, 1, 2], [3, 4, 5]])


def build(folder: Path, **options: object) -> object:
    return DATASETS.build({"type": "token_ids", "path": str(folder / "x.safetensors"), **options})


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ({"tokens": ROWS}, {"length": 4, "vocab_size": 6}, "have 3 tokens, not 4"),
        ({"tokens": ROWS}, {"length": 3, "vocab_size": 5}, "ids from 0 to 5, the vocabulary from 0 to 4"),
        ({"tokens": ROWS - 1}, {"length": 3, "vocab_size": 6}, "ids from -1 to 4"),
        ({"tokens": ROWS.float()}, {"length": 3}, "no whole numbers called `tokens`"),
        ({"others": ROWS}, {"length": 3}, "no whole numbers called `tokens`"),
    ],
)
def test_refuses_rows_that_do_not_fit(
    tensors: dict[str, torch.Tensor], options: dict[str, int], message: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message):
        build(tmp_path, **options)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.path: cannot read '.*x.safetensors'"):
        build(tmp_path)


def test_text_through_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    model = tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="c")
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    config = {"type": "token_ids", "vocab_size": 3, "length": 3, "tokenizer": str(tmp_path / "tokenizer.json")}
    assert DATASETS.build(config).to_text(torch.tensor([[0, 1, 0]])) == ["a b a"]
    with pytest.raises(UserError, match=r"data\.tokenizer: cannot read"):
        DATASETS.build({**config, "tokenizer": str(tmp_path / "none.json")})


def test_random_rows_stand_in_for_data() -> None:
    """The same each time, over all of the vocabulary; without them there is nothing to train on."""
    config = {"type": "token_ids", "vocab_size": 5, "length": 40, "random": 30}
    data, again = DATASETS.build(config), DATASETS.build(config)
    assert data.train.shape == (30, 40)
    assert torch.equal(data.train, again.train)
    assert torch.bincount(data.train[:].flatten(), minlength=5).min() > 180
    assert len(DATASETS.build({**config, "random": 0})) == 0
