"""ReDi: the store of pairs, what a student learns from them, and that pairs lower the conditional total correlation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from enumerable_denoisers import L, V, make
from torch import Generator, Tensor

from fewstep.core.errors import OperationError, RecipeError, UserError
from fewstep.data.sample_store import Rows, SampleStore
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.objectives.rectified import Rectified, interpolate
from fewstep.recipe import parse_recipe
from fewstep.testing.objectives import check_objective

TRAIN = Phase("train", ("student",))


def numbered(count: int, seed: int) -> Rows:
    """Pairs that can be told apart: start and data are one number, drawn with the seed."""
    rows = torch.randint(1 << 30, (count, 1), generator=Generator().manual_seed(seed))
    return Rows({"start": rows, "data": rows}, evaluations=count)


def store(folder: Path, count: int = 10, **facts: object) -> SampleStore:
    found = SampleStore(folder, count, {"teacher": "T", **facts}, seed=3, unit="pairs")
    found.fill(numbered)
    return found


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.data.sample_store.SHARD", 4)


@pytest.mark.usefixtures("small_files")
def test_an_epoch_has_every_pair_once_and_each_its_own_order(tmp_path: Path) -> None:
    pairs = store(tmp_path, 10)
    assert pairs.count == 12, "rounded up to whole files"
    first, second = (
        torch.cat([pairs.take(begin, 5)["data"], pairs.take(begin + 5, 7)["data"]])[:, 0] for begin in (0, 12)
    )
    assert len(first.unique()) == 12
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


@pytest.mark.usefixtures("small_files")
def test_reading_goes_on_from_one_number(tmp_path: Path) -> None:
    straight, begun = store(tmp_path).take(0, 46)["data"], store(tmp_path)
    for position, size in ((9, 1), (10, 30), (40, 6)):
        assert torch.equal(straight[position : position + size], begun.take(position, size)["data"])


@pytest.mark.usefixtures("small_files")
def test_an_interrupted_store_gets_the_pairs_that_it_would_have_had(tmp_path: Path) -> None:
    whole = store(tmp_path / "whole").take(0, 12)

    def dies(count: int, seed: int) -> Rows:
        if list((tmp_path / "cut").glob("pairs-*")):
            raise KeyboardInterrupt
        return numbered(count, seed)

    cut = SampleStore(tmp_path / "cut", 10, {"teacher": "T"}, seed=3, unit="pairs")
    with pytest.raises(KeyboardInterrupt):
        cut.fill(dies)
    again = SampleStore(tmp_path / "cut", 10, {"teacher": "T"}, seed=3, unit="pairs")
    assert again.fill(numbered) == 12, "evaluations of before count"
    assert torch.equal(again.take(0, 12)["data"], whole["data"])


def test_pairs_of_another_teacher_are_refused(tmp_path: Path) -> None:
    store(tmp_path)
    with pytest.raises(UserError, match=r"other pairs \(teacher: T there, other here\).* delete that one"):
        store(tmp_path, teacher="other")


def test_damaged_pairs_are_named(tmp_path: Path) -> None:
    store(tmp_path)
    (file,) = tmp_path.glob("pairs-*")
    file.write_bytes(b"x")
    with pytest.raises(OperationError, match=r"pairs-00000-of-00001.safetensors' is damaged .* draw its pairs anew"):
        store(tmp_path)


def test_tokens_are_data_or_their_own_noise() -> None:
    start, x = torch.zeros(4000, 4, dtype=torch.long), torch.ones(4000, 4, dtype=torch.long)
    z_t = interpolate(x, start, torch.tensor([0.3]).expand(4000), Generator().manual_seed(0))
    assert abs(float(z_t.float().mean()) - 0.3) < 0.02


def context(folder: Path) -> tuple[StepContext, Rectified]:
    ctx, _ = make("uniform")
    ctx.folder = folder
    objective = OBJECTIVES.build({"type": "rectified", "pairs": 512, "teacher_steps": 4})
    assert isinstance(objective, Rectified)
    objective.setup(ctx)
    return ctx, objective


def test_the_loss_is_the_cross_entropy_of_the_stored_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, objective = context(tmp_path)
    monkeypatch.setattr(ctx, "sample_time", lambda count, **_: torch.ones(count))
    out = objective.loss(TRAIN, Batch(torch.zeros(64, L, dtype=torch.long)), ctx)
    pairs, student = objective.store.take(0, 64), ctx.roles["student"]
    rows = student.logits[student.index(pairs["start"])].log_softmax(-1)  # type: ignore[operator, index]
    wanted = -rows.gather(2, pairs["data"][..., None]).mean()
    assert float(out.loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6), "at t = 1 all tokens are noise"


def test_evaluations_of_the_teacher_count(tmp_path: Path) -> None:
    ctx, _ = context(tmp_path)
    assert ctx.roles["teacher"].evaluated == 512 * 4
    again, _ = context(tmp_path)
    assert again.roles["teacher"].evaluated == 512 * 4, "a run that goes on tells the same"


def total_correlation(x: Tensor, given: Tensor) -> float:
    """sum_i H(x_i | given) - H(x | given) of observed pairs of two tokens, in nats."""
    table = torch.zeros(V * V, V, V, dtype=torch.float64)
    table.index_put_((given[:, 0] * V + given[:, 1], x[:, 0], x[:, 1]), torch.ones(len(x)).double(), accumulate=True)
    share = table.sum((1, 2)) / len(x)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).flatten(1).sum(1)

    joint = table / table.sum((1, 2), keepdim=True)
    apart = entropy(joint.sum(1)) + entropy(joint.sum(2))
    return float((share * (apart - entropy(joint))).sum())


def test_pairs_lower_the_conditional_total_correlation(tmp_path: Path) -> None:
    """Of tokens that always agree; noise that is drawn apart from them tells nothing, so it leaves log V."""
    ctx, roles = make("uniform")
    # p(x | z_t) for tokens that agree, with alpha_t small: near the prior, where a step is decided.
    for a in range(V):
        for b in range(V):
            row = torch.full((V,), 1e-3)
            row[a] += 1.0
            row[b] += 1.0
            with torch.no_grad():
                roles["teacher"].logits[a + V * b] = row.double().log()
    ctx.folder = tmp_path
    objective = OBJECTIVES.build({"type": "rectified", "pairs": 8192, "teacher_steps": 32})
    assert isinstance(objective, Rectified)
    objective.setup(ctx)
    pairs = objective.store.take(0, 8192)
    assert (pairs["data"][:, 0] == pairs["data"][:, 1]).float().mean() > 0.9, "the teacher knows that they agree"
    apart = pairs["start"][torch.randperm(8192, generator=Generator().manual_seed(1))]
    independent, coupled = total_correlation(pairs["data"], apart), total_correlation(pairs["data"], pairs["start"])
    assert independent > 0.7
    assert coupled < 0.6 * independent, (coupled, independent)


def test_masks_and_labels_are_refused() -> None:
    raw = {"name": "r", "data": "markov", "backbone": "transformer", "objective": "rectified", "teacher": {"run": "t"}}
    raw["train"] = {"steps": 10}  # type: ignore[assignment]
    with pytest.raises(RecipeError, match="noise of the masked process is always the same"):
        parse_recipe({**raw, "process": "masked", "sampler": "flow"})
    with pytest.raises(RecipeError, match="students of 'rectified' are made for 'flow', not 'ancestral'"):
        parse_recipe({**raw, "process": "uniform"})


@pytest.mark.usefixtures("small_files")
def test_resume_across_files_is_exact() -> None:
    check_objective({"type": "rectified", "pairs": 10, "teacher_steps": 2}, steps=7)
