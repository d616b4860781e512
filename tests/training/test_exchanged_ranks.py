"""A checkpoint goes on with any number of ranks and any strategy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_ranks import Trained, recipe


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return Trained(tmp_path)


def half(trained: Trained, source: str, target: str) -> None:
    """The run at its checkpoint of step 6, as if it had been interrupted there."""
    folder = trained.folder / target
    shutil.copytree(trained.folder / source, folder)
    shutil.rmtree(folder / "export")
    for path in folder.glob("checkpoints/step-*"):
        if path.name != "step-00000006":
            shutil.rmtree(path)
    (folder / "status.json").write_text(json.dumps({"state": "stopped", "step": 6, "steps": 12}))


@pytest.mark.slow
def test_ranks_and_strategies_are_exchanged_in_the_middle(trained: Trained) -> None:
    def of(strategy: str, **parallel: int) -> dict[str, object]:
        raw = recipe("dmmd", 12, trained.folder, strategy)
        raw["train"] |= {"checkpoint_every": 6, "keep_last": 10}
        raw["parallel"] |= parallel
        return raw

    trained.train(1, {"teacher-masked": recipe("teacher_masked", 4, trained.folder), "whole": of("auto")})
    trained.train(2, {"ddp": of("ddp"), "fsdp": of("fsdp")})
    ends = [("ddp", 1, "ddp"), ("fsdp", 1, "ddp"), ("ddp", 3, "fsdp"), ("fsdp", 3, "ddp"), ("whole", 3, "fsdp")]
    for begun, size, strategy in ends:
        half(trained, begun, f"{begun}-{size}-{strategy}")
    for size in (1, 3):
        trained.train(size, {f"{begun}-{n}-{s}": of(s) for begun, n, s in ends if n == size})
    for name in ("ddp", "fsdp", *(f"{begun}-{size}-{strategy}" for begun, size, strategy in ends)):
        trained.assert_same(name, "whole")


@pytest.mark.slow
def test_groups_of_shards_and_weights_of_16_bits_train(trained: Trained) -> None:
    def of(strategy: str, **parallel: object) -> dict[str, object]:
        raw = recipe("denoising", 6, trained.folder, strategy)
        raw["parallel"] |= parallel
        return raw

    trained.train(1, {"one": of("auto")})
    trained.train(4, {"groups": of("hybrid", shards=2)})
    narrow = of("fsdp", parameters="bf16")
    narrow["train"] = {**recipe("denoising", 6, trained.folder)["train"], "precision": "bf16"}
    trained.train(2, {"16-bits": narrow})
    trained.assert_same("groups", "one")
    for line, base in zip(trained.curve("16-bits"), trained.curve("one"), strict=True):
        assert line["train/loss"] == pytest.approx(base["train/loss"], rel=0.02)
