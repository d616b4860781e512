"""The entropy budget: its sets by hand and by search, the evaluations it takes, and the law it keeps at budget 0."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS, Samples
from fewstep.samplers.entropy_bounded import within_budget
from fewstep.testing.statistics import SIGMAS, assert_same_distribution, chi_square_sigmas

V, L = 2, 4


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=1, smoothing=0.4, size=8))


def draw(source: Markov, budget: float, steps: int, count: int = 10_000, given: Tensor | None = None) -> Samples:
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    sampler = SAMPLERS.build({"type": "entropy_bounded", "budget": budget})
    rng = Generator().manual_seed(1)
    return sampler.sample(oracle, count, steps=steps, generator=rng, cond=Condition(prompt=given))


def test_sets_by_hand() -> None:
    rows = torch.tensor([[0.3, 0.1, 0.2, 0.7], [0.5, 0.5, math.inf, 0.0], [math.inf, 2.0, math.inf, math.inf]])
    assert within_budget(rows, 0.0).tolist() == [1, 2, 1]  # what is certain costs nothing
    assert within_budget(rows, 0.31).tolist() == [3, 2, 1]  # 0.1 + 0.2, and 0.3 is the largest
    assert within_budget(rows, 0.61).tolist() == [4, 3, 1]
    assert within_budget(rows, 1e9).tolist() == [4, 3, 1]


def test_sets_are_the_largest_that_keep_to_the_budget() -> None:
    """Against every subset: none that keeps to the budget is larger."""
    rows = torch.rand(50, 6, generator=Generator().manual_seed(0), dtype=torch.float64)
    for budget in (0.05, 0.4, 1.5):
        for row, found in zip(rows.tolist(), within_budget(rows, budget).tolist(), strict=True):
            sizes = [
                size
                for size in range(1, 7)
                if any(sum(some) - max(some) <= budget for some in itertools.combinations(row, size))
            ]
            assert found == max(sizes)


def test_one_at_a_time_is_exact_and_a_budget_costs_something(source: Markov) -> None:
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    law = source.log_likelihood(every).exp()

    def counts(out: Samples) -> Tensor:
        return torch.bincount((out.x * V ** torch.arange(L - 1, -1, -1)).sum(1), minlength=V**L)

    slow, fast = draw(source, 0.0, 64), draw(source, 1.0, 64)
    assert_same_distribution(counts(slow), law, "budget 0")
    assert slow.nfe == L
    assert 1 < fast.nfe < L
    assert chi_square_sigmas(counts(fast), law) > 2 * SIGMAS


def test_evaluations_fall_with_the_budget_and_end_with_the_steps(source: Markov) -> None:
    taken = [draw(source, budget, 64, 200).nfe for budget in (0.0, 0.7, 1.4, 100.0)]
    assert taken == sorted(taken, reverse=True)
    assert taken[0] == L
    assert taken[-1] == 1
    assert draw(source, 0.0, 2, 200).nfe == 2


def test_samples_that_are_done_are_not_evaluated(source: Markov) -> None:
    given = torch.tensor([[1, 0, 1, 1], [1, -1, -1, 0], [-1, -1, -1, -1]])
    assert draw(source, 0.0, 64, 3, given).nfe == (0 + 2 + 4) / 3
