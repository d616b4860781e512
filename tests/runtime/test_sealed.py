"""Sealed files: whatever is changed in one is noticed when it is read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewstep.core.errors import OperationError
from fewstep.runtime.block_sums import BLOCK, BlockSums, block_sums
from fewstep.runtime.files import read_json, rewrite
from fewstep.runtime.finite import non_finite
from fewstep.runtime.sealed import load_sealed, save_sealed

TENSORS = {
    "weights": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "ids": torch.arange(4),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "flags": torch.tensor([True, False]),
}


def test_tensors_and_metadata_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sealed(TENSORS, tmp_path / "f", {"recipe": "name: ä"})
    tensors, metadata = load_sealed(tmp_path / "f", "")
    assert metadata == {"recipe": "name: ä"}
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor), name
    assert capsys.readouterr().err == ""


def test_no_change_is_silent(tmp_path: Path) -> None:
    """400 flips, cuts and zeros all over the file: in the header, in metadata and in tensors."""
    file = tmp_path / "f"
    save_sealed(TENSORS, file, {"recipe": "name: a"})
    before, draw = file.read_bytes(), random.Random(1)
    damaged = []
    for bit in draw.sample(range(8 * len(before)), 400):
        content = bytearray(before)
        content[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(content))
    damaged += [before[:size] for size in draw.sample(range(len(before)), 50)]
    damaged += [before[:at] + bytes(64) + before[at + 64 :] for at in draw.sample(range(len(before) - 64), 50)]
    harmless, messages = 0, list[str]()
    for content in damaged:
        file.write_bytes(content)
        try:
            tensors, metadata = load_sealed(file, "write it again")
        except OperationError as error:
            messages.append(str(error))
            continue
        harmless += 1  # a space of the header's padding, or a zero that was zero
        assert metadata == {"recipe": "name: a"}
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
    assert harmless < 20
    assert all("is damaged" in message and message.endswith("; write it again") for message in messages)


def test_a_seal_that_is_taken_away_leaves_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "f")
    load_sealed(tmp_path / "f", "")
    assert "is of an earlier version and has no digest" in capsys.readouterr().err


def test_blocks_are_compared_once_and_only_where_they_are_read(tmp_path: Path) -> None:
    import numpy as np

    file = tmp_path / "f"
    file.write_bytes(bytes(range(256)) * (3 * BLOCK // 256) + b"tail")
    sums = BlockSums(file, block_sums(file), "write it again")
    sums.check(np.array([5]))
    content = bytearray(file.read_bytes())
    content[2 * BLOCK + 7] ^= 16
    content[3] ^= 16
    file.write_bytes(content)
    sums.check(np.array([9, BLOCK]))
    with pytest.raises(OperationError, match=r"\(bytes 2,097,152 and on differ from what was written\); write"):
        sums.check(np.array([BLOCK, 3 * BLOCK - 1]))
    assert len(sums.sums) == 4


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_damaged_json_is_one_sentence_with_the_remedy(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(OperationError, match=r"f\.json' is damaged \(.*\); delete it$"):
        read_json(tmp_path / "f.json", "delete it")


def test_json_that_is_too_large_or_missing_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("[1, 2, 3]")
    with pytest.raises(OperationError, match="has 9 bytes, more than the 8 that are read; delete it"):
        read_json(tmp_path / "f.json", "delete it", limit=8)
    with pytest.raises(OperationError, match=r"cannot read .*No such file"):
        read_json(tmp_path / "none.json", "delete it")


def test_a_failed_rewrite_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    rewrite(file, "old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewstep.runtime.files.flush", full)
    with pytest.raises(OSError, match="No space"):
        rewrite(file, "new")
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_weight_that_is_not_finite_is_named(value: float) -> None:
    weights = {"a": torch.ones(3), "counter": torch.tensor(7), "b": torch.tensor([1.0, value]), "e": torch.empty(0)}
    assert non_finite(weights) == "b"
    assert non_finite({**weights, "b": torch.ones(2, dtype=torch.bfloat16)}) is None
    assert non_finite({"large": torch.full((1000,), 3e38)}) is None
