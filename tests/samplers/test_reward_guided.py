"""A reward's advice while sampling: the tilt, the choice of states, and what many candidates come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from enumerable_denoisers import JointOracle
from torch import Generator, Tensor

from fewstep.core.errors import UserError
from fewstep.denoisers.base import NOTHING
from fewstep.denoisers.reward import RewardedDenoiser
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.recipe import parse_recipe
from fewstep.samplers.base import SAMPLERS
from fewstep.training.launch import launch

V, L = 2, 3
MASKED = PROCESSES.build("masked", vocab_size=V)
STUDENT, TARGET = (
    (weights := torch.rand(V**L, generator=Generator().manual_seed(seed), dtype=torch.float64) + 0.1) / weights.sum()
    for seed in (3, 4)
)


def chance(law: Tensor, x_t: Tensor) -> Tensor:
    """That a sequence agrees with noised ones ([B]); which tokens are masked is as likely under any law."""
    return Student().agreeing(x_t).double() @ law


class Student(JointOracle):
    """E[x | z_t] under STUDENT."""

    def __init__(self) -> None:
        super().__init__(MASKED, L, STUDENT)


class Exact:
    """log q_T(z_t) / q_S(z_t)."""

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        return (chance(TARGET, x_t) / chance(STUDENT, x_t)).log()


class Linear:
    """A reward of each token apart, of which the first order is all there is."""

    gains = torch.randn(L, V + 1, generator=Generator().manual_seed(1))

    def score(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        rows = x_t if x_t.is_floating_point() else torch.nn.functional.one_hot(x_t, V + 1).float()
        return torch.einsum("bls,ls->b", rows, self.gains)


def law_of(sampler: dict[str, Any], reward: Any, steps: int, count: int = 6000) -> Tensor:
    built = SAMPLERS.build({"type": "reward_guided", "reward": {"run": "unused"}, **sampler})
    x = built.sample(RewardedDenoiser(Student(), reward), count, steps=steps, generator=Generator().manual_seed(2)).x
    return torch.bincount((x * V ** torch.arange(L - 1, -1, -1)).sum(1), minlength=V**L).double() / count


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().sum() / 2)


@pytest.mark.medium
def test_many_candidates_draw_from_the_law_that_the_reward_speaks_for() -> None:
    """Importance samples of each step; a few go part of the way, and one candidate is ancestral sampling."""
    laws = {m: law_of({"tilted": 0.0, "candidates": m}, Exact(), steps=24) for m in (1, 4, 48)}
    apart = distance(STUDENT, TARGET)
    assert distance(laws[1], STUDENT) < 0.03
    assert distance(laws[48], TARGET) < 0.06 < apart / 4
    assert distance(laws[48], TARGET) < distance(laws[4], TARGET) < apart


def test_the_tilt_multiplies_probabilities_by_what_the_reward_gains() -> None:
    """In one step each token is drawn apart, from p_v exp(gain_v), with the gain clipped."""
    built = SAMPLERS.build(
        {"type": "reward_guided", "reward": {"run": "unused"}, "tilted": 1.0, "strength": 2.0, "clip": 1.5}
    )
    model = RewardedDenoiser(Student(), Linear())
    x = built.sample(model, 20_000, steps=1, generator=Generator().manual_seed(2)).x
    plain = Student()(torch.full((1, L), V), torch.ones(1)).dense_probs()[0]
    tilt = (2.0 * (Linear.gains[:, :V] - Linear.gains[:, V:])).clamp(-1.5, 1.5)
    wanted = plain * tilt.exp()
    wanted = wanted / wanted.sum(1, keepdim=True)
    assert (2.0 * (Linear.gains[:, :V] - Linear.gains[:, V:])).abs().max() > 1.5, "something is clipped"
    for place in range(L):
        assert float((x[:, place] == 1).float().mean()) == pytest.approx(float(wanted[place, 1]), abs=0.015)


def test_given_tokens_stay() -> None:
    built = SAMPLERS.build({"type": "reward_guided", "reward": {"run": "unused"}})
    given = torch.tensor([[1, -1, -1]]).expand(200, -1)
    model = RewardedDenoiser(Student(), Linear())
    x = built.sample(model, 200, steps=4, generator=Generator().manual_seed(0), cond=Condition(prompt=given)).x
    assert (x[:, 0] == 1).all()
    assert (x < V).all()


@pytest.mark.medium
def test_a_run_rewards_its_own_student(tmp_path: Path) -> None:
    """From the command's point of view; and what is not a reward is refused in a sentence."""
    small = ["data.vocab_size=8", "data.length=8", "train.steps=4", "train.log_every=2"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    launch("markov-teacher", run_dir=str(teacher), sets=small)
    launch("markov-didi", run_dir=str(student), teacher=str(teacher), sets=small)
    rows = evaluate_run(
        str(student), [4], samples=50, sampler=f"{{type: reward_guided, reward: {{run: {student}}}, candidates: 2}}"
    )
    assert rows[0]["nfe"] == 4, "what the reward computes is no evaluation of the student"
    with pytest.raises(UserError, match=r"has no discriminator: objective 'denoising' has student"):
        evaluate_run(str(student), [4], samples=50, sampler=f"{{type: reward_guided, reward: {{run: {teacher}}}}}")


def test_a_recipe_must_name_the_reward() -> None:
    raw = {"name": "r", "data": "markov", "process": "masked", "backbone": "transformer", "objective": "denoising"}
    with pytest.raises(UserError, match="name the run whose discriminator judges"):
        parse_recipe({**raw, "train": {"steps": 1}, "sampler": "reward_guided"})
