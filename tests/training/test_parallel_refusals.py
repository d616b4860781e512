"""Strategies that a training cannot have, and ranks that see other checkpoints, are told before the first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewstep.core.errors import UserError
from fewstep.recipe import parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.checkpoint import MARK, checkpoint_name
from fewstep.runs.folder import RunDir
from fewstep.runtime.hashing import sha256
from fewstep.runtime.ranks import Ranks, ranks_of_environment
from fewstep.training.assemble import Parts, assemble
from fewstep.training.parallel import parallelise
from fewstep.training.resume import resume

CPU = torch.device("cpu")


def recipe(**sections: Any) -> Recipe:
    raw: dict[str, Any] = {
        "name": "refused",
        "data": {"type": "markov", "vocab_size": 5, "length": 6, "size": 64},
        "process": "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": "denoising",
        "train": {"steps": 2, "batch_size": 12, "device": "cpu"},
    }
    return parse_recipe({**raw, **sections})


def members(size: int) -> Ranks:
    """The first of some ranks that never talk."""
    return Ranks(0, size, object())  # type: ignore[arg-type]


def refusal(recipe: Recipe, parts: Parts, ranks: Ranks) -> str:
    with pytest.raises(UserError) as refused:
        parallelise(parts, recipe.settings, ranks, CPU)
    return str(refused.value)


def test_an_objective_that_needs_whole_networks_is_not_sharded() -> None:
    images = recipe(
        data="digits",
        backbone={"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": 8, "code_width": 4},
        objective="vq",
        parallel={"strategy": "fsdp"},
    )
    message = refusal(images, assemble(images), members(2))
    assert message == "parallel.strategy: is fsdp, and objective 'vq' needs whole networks; set it to ddp"


def test_roles_that_share_weights_are_not_sharded() -> None:
    hybrid = recipe(parallel={"strategy": "hybrid"})
    parts = assemble(hybrid)
    student = parts.roles["student"]
    shared = Parts(parts.dataset, parts.process, parts.objective, {"student": student, "auxiliary": student})
    message = refusal(hybrid, shared, members(2))
    assert message.startswith("parallel.strategy: is hybrid, and roles share weights (objective.auxiliary_rank)")
    assert message.endswith("set it to ddp")


def test_weights_of_16_bits_need_a_training_in_bf16() -> None:
    mixed = recipe(
        train={"steps": 2, "batch_size": 12, "device": "cpu", "precision": "fp32"},
        parallel={"strategy": "fsdp", "parameters": "bf16"},
    )
    message = refusal(mixed, assemble(mixed), members(2))
    assert message.startswith("parallel.parameters: is bf16")
    assert message.endswith("set train.precision to bf16")


def test_groups_divide_the_ranks() -> None:
    groups = recipe(parallel={"strategy": "hybrid", "shards": 2})
    message = refusal(groups, assemble(groups), members(3))
    assert message == "parallel.shards: 3 ranks cannot be divided into groups of 2; set it to a divisor"


def test_a_process_of_its_own_takes_any_strategy() -> None:
    sharded = recipe(parallel={"strategy": "fsdp"})
    parts = assemble(sharded)
    assert parallelise(parts, sharded.settings, Ranks(), CPU) is parts


def test_a_build_without_nccl_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(UserError, match=r"parallel.backend: this build of torch has no nccl; set it to gloo"):
        ranks_of_environment("auto", "cuda", 1).__enter__()


class Second(Ranks):
    """The second of two ranks, which hears what the first has chosen."""

    def __init__(self, choice: str) -> None:
        super().__init__(1, 2, object())  # type: ignore[arg-type]
        self.__dict__["choice"] = choice

    def of_first(self, text: str) -> str:
        return self.__dict__["choice"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("state", ["absent", "unmarked", "another"])
def test_a_rank_that_sees_another_checkpoint_is_named(tmp_path: Path, state: str) -> None:
    run = RunDir(tmp_path / "run")
    checkpoint = run.checkpoints / checkpoint_name(5)
    if state != "absent":
        checkpoint.mkdir(parents=True)
    if state == "another":
        (checkpoint / MARK).write_text("{}")
        assert sha256(checkpoint / MARK) != "abc"
    trainer = SimpleNamespace(run=run, ranks=Second(f"{checkpoint.name} abc"))
    with pytest.raises(UserError, match=r"rank 1 on \S+ does not see checkpoint '.*step-00000005' as rank 0 does; all"):
        resume(trainer)  # type: ignore[arg-type]
