"""Images that are changed at random: each batch anew, by streams of their own, and exactly alike after a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from local_data import write_cifar10

from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import list_checkpoints
from fewstep.runs.folder import RunDir
from fewstep.runtime.streams import SampleStreams
from fewstep.training.trainer import Trainer

SMALL = ["backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.device=cpu", "train.batch_size=8"]


def trainer(folder: Path, run: str, *sets: str) -> Trainer:
    data = folder / "cifar10"
    path = data if data.exists() else write_cifar10(data)
    steps = ["train.steps=6", "train.checkpoint_every=3", "train.log_every=3"]
    loaded = load_recipe("cifar10-teacher", [*SMALL, *steps, f"data.path={path}", "data.size=4", *sets])
    return Trainer.from_recipe(loaded.recipe, RunDir(folder / run), echo=lambda line: None)


@pytest.mark.medium
def test_every_batch_is_changed_anew_and_the_data_stay(tmp_path: Path) -> None:
    training = trainer(tmp_path, "run", "data.shift=1")
    rows, before = torch.arange(40), training.dataset.train[:].clone()
    first, again = training.batch(rows).x0, training.batch(rows).x0
    training.loader.next()
    second = training.batch(rows).x0
    assert first.dtype == torch.long
    assert torch.equal(first, again), "changes depend on how many samples the training took before"
    assert not torch.equal(first, second)
    assert torch.equal(training.dataset.train[:], before)


def test_changes_are_no_numbers_of_the_objective(tmp_path: Path) -> None:
    """Times of the batch are the same with and without changes."""
    changed, plain = trainer(tmp_path, "changed", "data.shift=1"), trainer(tmp_path, "plain", "data.flip=false")
    times = []
    for training in (changed, plain):
        training.batch(torch.arange(9))
        times.append(training.ctx.sample_time(9))
    assert torch.equal(*times)


@pytest.mark.parametrize("parts", [[4, 4], [1, 3, 4]])
def test_changes_do_not_depend_on_how_a_batch_is_divided(parts: list[int], tmp_path: Path) -> None:
    dataset = trainer(tmp_path, "run", "data.shift=1").dataset
    tokens = dataset.train[:8].long()
    whole = dataset.augment(tokens, SampleStreams(0, range(8)))
    begin, divided = 0, []
    for size in parts:
        numbers = range(begin, begin + size)
        divided.append(dataset.augment(tokens[begin : begin + size], SampleStreams(0, numbers)))
        begin += size
    assert torch.equal(torch.cat(divided), whole)


def test_without_changes_images_are_those_of_the_data(tmp_path: Path) -> None:
    training = trainer(tmp_path, "run", "data.flip=false")
    assert torch.equal(training.batch(torch.arange(9)).x0, training.dataset.train[:9].long())


def test_a_resumed_run_changes_images_as_the_uninterrupted_one_does(tmp_path: Path) -> None:
    straight = trainer(tmp_path, "straight", "data.shift=1")
    straight.fit()
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    shutil.rmtree(list_checkpoints(RunDir(tmp_path / "resumed").checkpoints)[-1])
    resumed = trainer(tmp_path, "resumed", "data.shift=1")
    resumed.fit()
    for (name, ours), theirs in zip(
        straight.roles["student"].state_dict().items(), resumed.roles["student"].state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
