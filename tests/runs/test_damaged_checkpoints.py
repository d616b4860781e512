"""Checkpoints that are not what was written: named, set aside, never read in silence."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.runs.checkpoint import (
    DamagedCheckpoint,
    list_checkpoints,
    load_checkpoint,
    read_mark,
    save_checkpoint,
    set_aside,
    sweep,
)

FILES = ("state.safetensors", "state.json", "DONE")
STATE = {"weights": torch.arange(64.0), "step": 7, "names": {"a": 1.5, "b": "text"}}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint."""
    return save_checkpoint(tmp_path / "checkpoints", 7, STATE, keep_last=3, run="ours", teacher="T")


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def is_refused(checkpoint: Path) -> bool:
    """Whether a run that began with teacher T does not go on from it."""
    try:
        load_checkpoint(checkpoint, run="ours")
        return read_mark(checkpoint).teacher != "T"
    except OperationError:
        return True


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_is_silent(name: str, whole: Path) -> None:
    before = (whole / name).read_bytes()
    for bit in random.Random(0).sample(range(8 * len(before)), 130):
        flip(whole / name, bit)
        assert is_refused(whole), f"bit {bit} of {name}"
        (whole / name).write_bytes(before)
    assert not is_refused(whole)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["zeroed", "cut", "empty", "missing", "folder", "longer"])
def test_no_damaged_file_is_silent(name: str, damage: str, whole: Path) -> None:
    file = whole / name
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "missing":
        middle = len(content) // 2
        changed = {"zeroed": bytes(len(content)), "cut": content[:middle], "empty": b"", "longer": content + b"x"}
        file.write_bytes(changed[damage])
    if name == "DONE" and damage == "missing":
        assert list_checkpoints(whole.parent) == [], "without its mark it does not count"
    with pytest.raises(DamagedCheckpoint, match="is damaged"):
        load_checkpoint(whole)


@pytest.mark.parametrize("name", FILES[:2])
def test_swapped_files_are_refused(name: str, whole: Path) -> None:
    other = save_checkpoint(whole.parent, 8, {**STATE, "weights": torch.ones(64), "step": 8}, keep_last=3, run="ours")
    shutil.copy(other / name, whole / name)
    with pytest.raises(DamagedCheckpoint, match=f"the SHA-256 of {name} is another"):
        load_checkpoint(whole)


def test_a_whole_checkpoint_of_another_step_or_run_is_refused(whole: Path) -> None:
    with pytest.raises(OperationError, match=r"belongs to another run \(id ours, this run is theirs\)"):
        load_checkpoint(whole, run="theirs")
    renamed = whole.rename(whole.with_name("step-00000009"))
    with pytest.raises(DamagedCheckpoint, match="its mark is that of step 7"):
        load_checkpoint(renamed)


def test_an_earlier_version_is_read_with_a_note(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (whole / "DONE").write_text("7\n")
    assert load_checkpoint(whole, run="any")["step"] == 7
    assert "is of an earlier version and has no digest" in capsys.readouterr().err


def test_damaged_ones_are_set_aside_under_a_free_name(whole: Path) -> None:
    first = set_aside(whole)
    second = set_aside(save_checkpoint(whole.parent, 7, STATE, keep_last=3))
    assert (first.name, second.name) == ("damaged-step-00000007", "damaged-step-00000007-2")
    assert list_checkpoints(whole.parent) == []


def test_left_overs_of_killed_processes_are_swept(whole: Path) -> None:
    (whole.parent / ".partial-00000008").mkdir()
    half_deleted = shutil.copytree(whole, whole.parent / "step-00000003")
    (half_deleted / "DONE").unlink()
    sweep(whole.parent)
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


def test_milestones_stay(tmp_path: Path) -> None:
    for step in range(1, 10):
        save_checkpoint(tmp_path, step, {"step": step}, keep_last=2, keep_every=3)
    assert [json.loads((path / "DONE").read_text())["step"] for path in list_checkpoints(tmp_path)] == [3, 6, 8, 9]


def test_a_failed_save_leaves_earlier_ones_and_nothing_else(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewstep.runs.checkpoint.save_tensors", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(whole.parent, 8, STATE, keep_last=1)
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]
    assert load_checkpoint(whole)["step"] == 7
