"""Checkpoints: any tree survives, nothing is unpickled, nothing half-written counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint

STATE = {
    "step": 3,
    "rates": {"a": 1e-300, "b": 0.1 + 0.2},
    "optimizers": {"student": {"state": {0: {"exp_avg": torch.randn(2, 3)}}, "param_groups": [{"betas": (0.0, 0.99)}]}},
    "generators": {"noise": torch.Generator().manual_seed(1).get_state()},
    "none": None,
    "words": ["x", ["y"]],
}


def test_a_tree_survives(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, STATE, keep_last=2)
    got = load_checkpoint(path)
    assert got["step"] == 3
    assert got["rates"] == STATE["rates"], "floats keep every bit"
    optimizer = got["optimizers"]["student"]
    assert torch.equal(optimizer["state"][0]["exp_avg"], STATE["optimizers"]["student"]["state"][0]["exp_avg"])  # type: ignore[index]
    assert optimizer["param_groups"] == [{"betas": [0.0, 0.99]}]
    assert torch.equal(got["generators"]["noise"], STATE["generators"]["noise"])  # type: ignore[index]
    assert load_checkpoint(path, "rates") == STATE["rates"]


def test_shared_and_strided_tensors_survive(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    got = load_checkpoint(save_checkpoint(tmp_path, 1, {"a": base, "b": base, "c": base.T}, keep_last=1))
    assert torch.equal(got["a"], base)
    assert torch.equal(got["b"], base)
    assert torch.equal(got["c"], base.T)


def test_only_whole_checkpoints_count_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {"step": step}, keep_last=2)
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / ".partial-00000010").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage"])
def test_damage_is_one_sentence(damage: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.randn(100)}, keep_last=1)
    file = path / "state.safetensors"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:60])
    elif damage == "delete":
        (path / "state.json").unlink()
    else:
        (path / "state.json").write_text("{not json")
    with pytest.raises(OperationError, match="damaged"):
        load_checkpoint(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": torch.randn(3)}, keep_last=1)
    torch.save({"w": torch.randn(3)}, path / "state.safetensors")
    with pytest.raises(OperationError, match="damaged"):
        load_checkpoint(path)
