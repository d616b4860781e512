"""Rare symbols at short steps: which draws keep their mass, on a Zipf law over 50,257 symbols.

Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from fewstep.predictions.base import Prediction, RowMap
from fewstep.predictions.draws import draw_at
from fewstep.processes.base import PROCESSES
from fewstep.samplers.joint import JointPrecision, draw_joint
from fewstep.testing.statistics import assert_same_distribution, chi_square_sigmas

V = 50_257
STEP = 1 / 1024
EDGES = torch.tensor([1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, V])
"""Symbols are counted by rank up to these."""


def zipf() -> Tensor:
    weights = 1 / torch.arange(1, V + 1, dtype=torch.float64)
    return weights / weights.sum()


class Zipf(Prediction):
    """The same law for every masked token, with one row in memory."""

    def __init__(self, known: Tensor, where: Tensor, shaping: tuple[RowMap, ...] = ()) -> None:
        super().__init__(known, where, shaping)
        self._row = zipf().log().float()

    @property
    def vocab_size(self) -> int:
        return V

    def source(self, where: Tensor) -> Tensor:
        return torch.empty(int(where.sum()), 0)

    def to_log_probs(self, source: Tensor) -> Tensor:
        return self._row.expand(len(source), V)

    def with_shaping(self, shaping: tuple[RowMap, ...]) -> Prediction:
        return Zipf(self.known, self.where, shaping)


def one_step(tokens: int, seed: int, precision: JointPrecision | None = None) -> Tensor:
    """What a step of 1/1024 from noise reveals of so many masks: counts by rank."""
    process, generator = PROCESSES.build("masked", vocab_size=V), Generator().manual_seed(seed)
    x = process.prior((1, tokens), device="cpu", generator=None)
    now, then = torch.ones(1, dtype=torch.float64), torch.full((1,), 1 - STEP, dtype=torch.float64)
    prediction = Zipf(x, process.to_predict(x))
    if precision is None:
        drawn = process.step_back(x, prediction, now, then, generator=generator)
    else:
        drawn = draw_joint(process, prediction, x, now, then, generator, precision, last=False)
    ranks = drawn[drawn < V]
    return torch.bincount(torch.bucketize(ranks + 1, EDGES), minlength=len(EDGES))


def by_rank() -> Tensor:
    sums = zipf().cumsum(0)[EDGES - 1]
    return torch.diff(sums, prepend=torch.zeros(1, dtype=torch.float64))


@pytest.mark.medium
def test_two_stages_keep_rare_symbols() -> None:
    """Two million masks, of which two thousand are revealed."""
    counts = one_step(2**21, seed=0)
    assert abs(int(counts.sum()) - 2**11) < 5 * 2**5.5
    assert_same_distribution(counts, by_rank(), "two-stage step of 1/1024")


def test_inverting_the_distribution_function_keeps_them_too() -> None:
    u = torch.rand(5000, generator=Generator().manual_seed(1), dtype=torch.float64)
    ranks = torch.cat([draw_at(zipf().log().float().expand(len(part), V), part) for part in u.split(500)])
    counts = torch.bincount(torch.bucketize(ranks + 1, EDGES), minlength=len(EDGES))
    assert_same_distribution(counts, by_rank(), "inverse of the distribution function")


def joint(precision: JointPrecision, seed: int, thousands: int) -> tuple[Tensor, Tensor]:
    """Counts below and beyond rank 3,000, and what they should be in proportion.

    In parts, since each mask is a row of 50,258 random numbers.
    """
    counts = sum(one_step(1000, seed + part, precision) for part in range(thousands))
    assert isinstance(counts, Tensor)
    return tuple(torch.stack((cells[:-2].sum(), cells[-2:].sum())) for cells in (counts, by_rank()))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["joint_fp64", "joint_safe"])
def test_joint_draws_with_enough_bits_keep_them(precision: JointPrecision) -> None:
    assert_same_distribution(*joint(precision, 100, thousands=60), precision)


@pytest.mark.slow
def test_joint_draws_in_float32_starve_them() -> None:
    """The counter-example, minutes long: most of what lies beyond rank 3,000, a quarter of the law, is lost."""
    counts, law = joint("joint_fp32", 200, thousands=220)
    assert chi_square_sigmas(counts, law) > 5, "less than a chance of one in a million"
    assert counts[1] / counts.sum() < 0.4 * law[1]
