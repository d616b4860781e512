"""Mistakes seen in public code that no test of one component catches; docs/baselines.md lists all with their tests."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Generator

from fewstep.objectives.base import StepContext
from fewstep.objectives.parts.divergence import Divergence, divergence
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES
from fewstep.testing.statistics import assert_same_distribution

V = 3


def table(logits: torch.Tensor) -> TablePrediction:
    """A prediction of one token by logits [V]."""
    rows = logits.log_softmax(-1).view(1, 1, -1)
    return TablePrediction(rows, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize("name", get_args(Divergence))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_symbols_that_cannot_be_add_nothing_to_a_divergence(name: Divergence, dtype: torch.dtype) -> None:
    """-inf gives 0 * inf = nan, and the usual cure, -1e6, enters differences of log-probabilities."""
    where = torch.ones(1, 1, dtype=torch.bool)
    ours, theirs = torch.tensor([1.0, 0.2, -0.5], dtype=dtype), torch.tensor([0.1, 0.6, 0.0], dtype=dtype)
    never = torch.tensor([-torch.inf], dtype=dtype)
    plain = divergence(name, table(ours), table(theirs), where)
    longer = torch.cat((ours, never)).requires_grad_(True)
    value = divergence(name, table(longer), table(torch.cat((theirs, never))), where)
    torch.testing.assert_close(value, plain)
    value.sum().backward()
    assert longer.grad is not None
    assert torch.isfinite(longer.grad).all()
    assert float(divergence(name, table(longer.detach()), table(longer.detach()), where)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3, 64])
def test_even_times_have_the_law_of_independent_ones(count: int) -> None:
    """However a batch is divided, each part has a shift of its own, so that every time is uniform."""
    ctx = StepContext(
        {}, PROCESSES.build("masked", vocab_size=V), {"time": Generator().manual_seed(0)}, torch.device("cpu")
    )
    drawn = torch.stack([ctx.sample_time(count, antithetic=True) for _ in range(4000)])
    assert 0 <= float(drawn.min()) <= float(drawn.max()) < 1
    one = (drawn[:, -1] * 10).long()  # a single place of the batch: the times of a batch depend on each other
    assert_same_distribution(torch.bincount(one, minlength=10), torch.full((10,), 0.1), f"last of {count} times")


def test_revealed_tokens_stay_with_masks_and_are_revised_without() -> None:
    """Carrying over what is not masked is right for the one process and wrong for the other."""
    count, clean = 20_000, torch.tensor([0.8, 0.1, 0.1])
    now, then = torch.full((count,), 0.6), torch.full((count,), 0.3)
    z = torch.full((count, 1), 2)
    p = TablePrediction(clean.log().expand(count, 1, V), z, torch.ones(count, 1, dtype=torch.bool))
    masked = PROCESSES.build({"type": "masked", "schedule": "linear"}, vocab_size=V)
    rng = Generator().manual_seed(0)
    assert (masked.step_back(z, p, now, then, generator=rng) == 2).all()

    uniform = PROCESSES.build({"type": "uniform", "schedule": "linear"}, vocab_size=V)
    drawn = uniform.step_back(z, p, now, then, generator=rng)[:, 0]
    alpha_t, alpha_s = (float(uniform.schedule.alpha(t[:1])) for t in (now, then))
    step = alpha_t / alpha_s
    # Bayes, token by token: sum_x p(x) q(z_s | x) q(z_t | z_s) / q(z_t | x).
    same = torch.eye(V)
    noised = alpha_s * same + (1 - alpha_s) / V  # [x, z_s]
    kept = step * same[:, 2] + (1 - step) / V  # [z_s]
    seen = alpha_t * same[:, 2] + (1 - alpha_t) / V  # [x]
    assert_same_distribution(
        torch.bincount(drawn, minlength=V), (clean[:, None] * noised * kept / seen[:, None]).sum(0), "uniform"
    )
