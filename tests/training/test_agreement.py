"""Ranks that cannot train together are told so before the first step, by rank and by what differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fewstep.core.errors import UserError
from fewstep.recipe import parse_recipe
from fewstep.recipe.models import Recipe, TrainSection
from fewstep.runtime.ranks import Ranks, ranks_of_environment
from fewstep.training.agreement import agree_on_parts, agree_on_recipe
from fewstep.training.shares import check_objective, check_shares


class Told(Ranks):
    """The first of two ranks; the second says what the first does, after `change`."""

    def __init__(self, change: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(0, 2, object())  # type: ignore[arg-type]
        self.__dict__["change"] = change

    def texts(self, text: str, *, patient: bool = False) -> list[str]:
        other = json.loads(text)
        other["host"] = "node-2"
        self.__dict__["change"](other["facts"])
        return [text, json.dumps(other)]


def recipe(**train: int) -> Recipe:
    raw: dict[str, Any] = {
        "name": "r",
        "data": "markov",
        "process": "masked",
        "backbone": "transformer",
        "objective": "didi",
    }
    return parse_recipe({**raw, "teacher": {"run": "t"}, "train": {"steps": 10, **train}})


def test_equal_ranks_agree() -> None:
    agree_on_recipe(recipe(batch_size=16), Told(lambda facts: None))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe: train.steps", "11", r"rank 1 on node-2 differs .*\(recipe: train.steps: 11 there, 10 on rank 0\)"),
        ("code of fewstep", "abc", r"\(code of fewstep: abc there"),
        ("version of torch", "1.0", r"\(version of torch: 1.0 there"),
        ("plugin mine", "abc", r"\(plugin mine: abc there, none on rank 0\)"),
    ],
)
def test_another_recipe_or_code_is_named(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        agree_on_recipe(recipe(batch_size=16), Told(lambda facts: facts.update({key: value})))


def test_other_data_and_weights_are_named() -> None:
    roles = {"teacher": nn.Linear(2, 2)}
    with pytest.raises(UserError, match=r"rank 1 on node-2 .*\(data: g there, f on rank 0\)"):
        agree_on_parts("f", roles, Told(lambda facts: facts.update(data="g")))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"weights of 'teacher': x there"):
        agree_on_parts("f", roles, Told(lambda facts: facts.update({"weights of 'teacher'": "x"})))  # type: ignore[arg-type]


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    check_shares(TrainSection(steps=1, batch_size=6), Ranks(0, 3))
    with pytest.raises(UserError, match="8 samples cannot be divided between 3 ranks; make it a multiple of 3"):
        check_shares(TrainSection(steps=1, batch_size=8), Ranks(0, 3))
    with pytest.raises(UserError, match="3 ranks with 2 micro-batches each; make it a multiple of 6"):
        check_shares(TrainSection(steps=1, batch_size=9, accumulate=2), Ranks(0, 3))


def test_a_share_that_the_objective_cannot_take_is_refused() -> None:
    check_objective(recipe(batch_size=16), Ranks(0, 2))
    with pytest.raises(
        UserError, match=r"objective.group: with 2 ranks micro-batches of 6 cannot be split into groups"
    ):
        check_objective(recipe(batch_size=12), Ranks(0, 2))


def environment(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in {**values, **changes}.items():
        monkeypatch.setenv(name, value)


def test_without_torchrun_a_process_is_alone() -> None:
    with ranks_of_environment("auto", "cpu", 1) as ranks:
        assert (ranks.rank, ranks.size, ranks.several) == (0, 1, False)


def test_variables_and_backends_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RANK="one")
    with pytest.raises(UserError, match="RANK is 'one', not a number; start ranks with torchrun"):
        ranks_of_environment("auto", "cpu", 1).__enter__()
    environment(monkeypatch)
    with pytest.raises(UserError, match=r"parallel.backend: is nccl, .* on the CPU; set it to auto"):
        ranks_of_environment("nccl", "cpu", 1).__enter__()
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(UserError, match="this build of torch has no gloo"):
        ranks_of_environment("auto", "cpu", 1).__enter__()
    monkeypatch.undo()
    environment(monkeypatch, LOCAL_RANK="1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"has 1 GPU and at least 2 ranks; start torchrun with --nproc_per_node=1"):
        ranks_of_environment("auto", "auto", 1).__enter__()


def test_ranks_that_do_not_come_together_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from several_ranks import free_port

    from fewstep.runtime.ranks import LostRankError

    environment(monkeypatch, RANK="1", MASTER_PORT=str(free_port()))
    with pytest.raises(LostRankError, match="the 2 ranks did not come together"):
        ranks_of_environment("auto", "cpu", 1 / 60).__enter__()
