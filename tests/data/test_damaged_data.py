"""Stored pairs, batches of samples and shards of tokens: damage is noticed where they are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewstep.core.errors import FewstepError, OperationError
from fewstep.data.base import DATASETS
from fewstep.data.sample_store import SHARD, Rows, SampleStore
from fewstep.sampling.folder import Batch, JobFolder
from fewstep.sampling.request import Part


def damages(content: bytes, count: int) -> list[bytes]:
    """The content with a flipped bit, a zeroed stretch, or an end that is missing."""
    draw, changed = random.Random(2), []
    for _ in range(count):
        at = draw.randrange(len(content))
        changed.append(content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :])
    at = len(content) // 2
    return [*changed, content[:at], content[:at] + b"\x5a" * 16 + content[at + 16 :], b""]


def assert_noticed(file: Path, read: Callable[[], object]) -> None:
    """`read` fails in one sentence for every damage, or returns what it did before."""
    content, before = file.read_bytes(), read()
    silent, messages = 0, list[str]()
    for changed in damages(content, 60):
        file.write_bytes(changed)
        try:
            assert read() == before, "damage was read in silence"
            silent += 1
        except FewstepError as error:
            messages.append(str(error))
    file.write_bytes(content)
    assert all(file.stem in message or "damaged" in message for message in messages)
    assert silent < 6, "only bytes that mean nothing may change"
    assert read() == before


def test_pairs(tmp_path: Path) -> None:
    def draw(count: int, seed: int) -> Rows:
        rows = torch.randint(9, (count, 4), generator=torch.Generator().manual_seed(seed))
        return Rows({"start": rows, "data": rows.flip(1)}, count)

    def read() -> list[list[int]]:
        store = SampleStore(tmp_path, 32, {"teacher": "T"}, 0, unit="pairs")
        store.fill(draw)
        return store.take(0, 32)["data"].tolist()

    read()
    (file,) = tmp_path.glob("*.safetensors")
    assert_noticed(file, read)
    (tmp_path / "pairs.json").write_text("[1")
    with pytest.raises(OperationError, match=r"pairs\.json' is damaged .* delete the folder to draw the pairs anew"):
        read()


def test_pairs_of_another_store_or_place(tmp_path: Path) -> None:
    def fill(name: str, seed: int) -> SampleStore:
        store = SampleStore(tmp_path / name, 2 * SHARD, {"teacher": "T"}, seed, unit="pairs")
        store.fill(
            lambda count, s: Rows(
                {"start": torch.full((count, 1), s % 97), "data": torch.full((count, 1), s % 89)}, count
            )
        )
        return store

    ours = fill("ours", 0)
    fill("theirs", 1)
    first, second = sorted((tmp_path / "ours").glob("*.safetensors"))
    content = first.read_bytes()
    for other in (second, tmp_path / "theirs" / first.name):
        first.write_bytes(other.read_bytes())
        with pytest.raises(OperationError, match=r"holds other pairs, of 'pairs-0000.*; delete that file"):
            ours.take(0, 2 * SHARD)
    first.write_bytes(content)
    assert len(ours.take(0, 2 * SHARD)["data"]) == 2 * SHARD


@pytest.mark.parametrize("suffix", [".safetensors", ".jsonl"])
def test_batches_of_samples(suffix: str, tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "samples", {"seed": 0}, 4)
    folder.begin(Part(1, 1), resume=False, batch_size=lambda: 4)
    folder.store(Batch(range(4), torch.arange(8).view(4, 2), 4.0, 1.0), '{"a": 1}\n' * 4)
    (file,) = (tmp_path / "samples" / "unfinished").glob(f"*{suffix}")

    def read() -> list[list[int]]:
        (tmp_path / "out").mkdir(exist_ok=True)
        return folder._joined(tmp_path / "out").tokens.tolist()

    assert_noticed(file, read)


def test_shards_as_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(f"Document {i} of many" for i in range(200)))
    config = {"type": "corpus", "path": str(tmp_path / "t.txt"), "prepared": str(tmp_path / "shards"), "length": 16}

    def read() -> list[list[int]]:
        return DATASETS.build(config).train[:].tolist()

    read()
    file = next((tmp_path / "shards").glob("train-*.safetensors"))
    assert_noticed(file, read)
