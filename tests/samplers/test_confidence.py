"""Filling in by confidence: scores by hand, how many masks a step leaves and which it takes, which orders are exact."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.predictions.shaping import row_maps
from fewstep.processes.base import PROCESSES
from fewstep.processes.masks import ranks
from fewstep.samplers.base import SAMPLERS, StepState
from fewstep.samplers.confidence import masks_left, sureness
from fewstep.samplers.filling import draw_and_score
from fewstep.schedules.base import SCHEDULES
from fewstep.testing.statistics import SIGMAS, assert_same_distribution, chi_square_sigmas

V, L = 2, 4


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=1, smoothing=0.4, size=8))


def counts_and_law(source: Markov, **settings: Any) -> tuple[Tensor, Tensor]:
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    sampler = SAMPLERS.build({"type": "confidence", **settings})
    x = sampler.sample(oracle, 20_000, steps=L, generator=Generator().manual_seed(1)).x
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    index = (x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    return torch.bincount(index, minlength=V**L), source.log_likelihood(every).exp()


@pytest.mark.parametrize("order", ["random", "margin", "entropy"])
def test_one_token_at_a_time_these_orders_are_exact(order: str, source: Markov) -> None:
    """The chain rule holds in any order, also in one that looks at the tokens that are there already."""
    assert_same_distribution(*counts_and_law(source, order=order), order)


def test_confidence_prefers_likely_tokens_unless_noise_decides(source: Markov) -> None:
    """So the tests above can fail; noise far above the differences of scores makes any order the random one."""
    assert chi_square_sigmas(*counts_and_law(source, order="confidence")) > 2 * SIGMAS
    assert_same_distribution(*counts_and_law(source, order="confidence", choice_temperature=1e4), "noise")


def test_the_random_order_is_one_of_all_with_equal_odds() -> None:
    source = Markov(Markov.Config(vocab_size=V, length=3, successors=1, smoothing=0.4, size=8))
    oracle, shown = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V)), []
    sampler = SAMPLERS.build({"type": "confidence", "order": "random"})

    def note(state: StepState) -> None:
        shown.append(state.x == V)

    sampler.sample(oracle, 6000, steps=3, generator=Generator().manual_seed(0), on_step=note)
    when = torch.stack(shown).sum(0)  # how many states a place is still a mask in
    counts = torch.bincount(when[:, 0] * 3 + when[:, 1], minlength=9)
    law = torch.tensor([float(first != second) for first in range(3) for second in range(3)]) / 6
    assert_same_distribution(counts, law, "orders")


def test_scores_by_hand() -> None:
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.4, 0.4, 0.2]], dtype=torch.float64).log()
    drawn = torch.tensor([2, 1, 0])

    def values(order: Any) -> list[float]:
        return [float(value) for value in sureness(order, rows, drawn)]

    entropy = [sum(p * math.log(p) for p in row if p) for row in ([0.5, 0.3, 0.2], [1.0], [0.4, 0.4, 0.2])]
    assert values("confidence") == pytest.approx([math.log(0.2), 0.0, math.log(0.4)])
    assert values("margin") == pytest.approx([math.log(0.2), 0.0, -math.inf])
    assert values("entropy") == pytest.approx(entropy)
    assert values("random") == [0.0, 0.0, 0.0]


def test_ranks_count_from_the_highest_and_take_equals_in_turn() -> None:
    scores = torch.tensor([[0.1, 0.5, -math.inf, 0.5], [-math.inf, -1e30, 3.0, 2.0]])
    assert ranks(scores).tolist() == [[2, 0, 3, 1], [3, 2, 0, 1]]


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_how_many_masks_are_left(schedule: str) -> None:
    """Between its ends every schedule goes from all to none; f equal shares of the way take f tokens one by one."""
    law = SCHEDULES.build(schedule)
    clean, noise = law.ends
    for free in (1, 3, 7, 32):
        shares = torch.arange(free, -1, -1, dtype=torch.float64) / free
        times = law.time_of(clean - shares * (clean - noise))
        left = masks_left(torch.full((free + 1,), free), law, times)
        assert (left - torch.arange(free, -1, -1)).abs().max() <= 1  # the time of a level is rounded
    if schedule == "linear":
        halves = torch.tensor([0.5, 0.5, 0.49, 0.0], dtype=torch.float64)
        assert masks_left(torch.tensor([8, 3, 8, 8]), law, halves).tolist() == [4, 1, 3, 0]
        thirds = torch.tensor([1 - 2 / 3, 1 - 1 / 3], dtype=torch.float64)
        assert masks_left(torch.tensor([3, 3]), law, thirds).tolist() == [1, 2]


@pytest.mark.parametrize("grid", ["linear", "cosine"])
def test_a_step_leaves_what_the_schedule_says(grid: str) -> None:
    """16 tokens, 4 of them given in one sample: counts after each step, and the evaluations that it took."""
    source = Markov(Markov.Config(vocab_size=3, length=16, successors=2, size=8))
    process, left = PROCESSES.build({"type": "masked", "schedule": {"type": "linear", "eps": 0}}, vocab_size=3), []
    given = torch.full((2, 16), -1)
    given[1, [0, 3, 8, 15]] = 1
    sampler = SAMPLERS.build({"type": "confidence", "grid": grid})
    states: list[StepState] = []

    def note(state: StepState) -> None:
        states.append(state)
        left.append((state.x == 3).sum(1).tolist())

    oracle = exact_denoiser(source, process)
    out = sampler.sample(
        oracle, 2, steps=5, generator=Generator().manual_seed(0), cond=Condition(prompt=given), on_step=note
    )
    before = [16, 12]
    for state, found in zip(states, left, strict=True):
        noise = 1 - float(process.schedule.alpha(torch.tensor(state.s, dtype=torch.float64)))
        wanted = [min(int(free * noise + 1e-9), max(old - 1, 0)) for free, old in zip((16, 12), before, strict=True)]
        before = found
        assert found == (wanted if state.s > 0 else [0, 0])
    assert out.nfe <= 5


def test_samples_that_are_done_are_not_evaluated(source: Markov) -> None:
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    given = torch.tensor([[1, -1, -1, 0], [1, 1, 1, 1], [-1, -1, -1, -1]])
    sampler = SAMPLERS.build("confidence")
    out = sampler.sample(oracle, 3, steps=50, generator=Generator().manual_seed(0), cond=Condition(prompt=given))
    assert out.nfe == (2 + 0 + 4) / 3


def test_the_surest_places_are_taken_whatever_sharpens_the_draws() -> None:
    """A greedy draw is certain everywhere; places are still ranked by the network's own rows."""
    table = torch.tensor([[[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]], dtype=torch.float64).log()
    masks = torch.tensor([[True, True, False]])
    prediction = TablePrediction(table, torch.tensor([[2, 2, 1]]), masks)
    drawn, scores = draw_and_score(
        prediction, masks, row_maps(greedy=True), lambda p, i: sureness("confidence", p, i), Generator().manual_seed(0)
    )
    assert drawn.tolist() == [[0, 0, 1]]
    assert scores[0].tolist() == pytest.approx([math.log(0.6), math.log(0.9), -math.inf])
