"""First hitting: the law of its times, of its order and of its samples, and what shares an evaluation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.recipe import parse_recipe
from fewstep.samplers.base import SAMPLERS, StepState
from fewstep.samplers.first_hitting import events_until, hitting_levels
from fewstep.samplers.walk import Step
from fewstep.testing.statistics import assert_same_distribution

V, L = 3, 4


class Watched(Denoiser):
    """Predicts equal odds everywhere and remembers what it was asked."""

    device = torch.device("cpu")  # type: ignore[assignment]

    def __init__(self, process: DiscreteProcess, length: int) -> None:
        super().__init__(process, length)
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        assert s is not None
        self.asked.append((x_t, t, s))
        rows = torch.zeros(*x_t.shape, self.process.vocab_size, dtype=torch.float64).log_softmax(-1)
        return TablePrediction(rows, x_t, self.process.to_predict(x_t))


def watched(schedule: str, length: int, count: int, steps: int, given: Tensor | None = None) -> Watched:
    model = Watched(PROCESSES.build({"type": "masked", "schedule": schedule}, vocab_size=V), length)
    sampler = SAMPLERS.build("first_hitting")
    sampler.sample(model, count, steps=steps, generator=Generator().manual_seed(0), cond=Condition(prompt=given))
    return model


def test_levels_are_order_statistics_of_uniform_numbers() -> None:
    """The k-th highest of n has the law I(x; n - k + 1, k); eighths of each against a chi-square, 20,000 draws."""
    masks = torch.full((20_000,), 3)
    levels = hitting_levels(masks, 5, Generator().manual_seed(0))
    assert (levels[:, 3:] == 0).all()
    assert (levels.diff(dim=1) <= 0).all()
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    below = (x**3, 3 * x**2 - 2 * x**3, 1 - (1 - x) ** 3)
    for event in range(3):
        counts = torch.histc(levels[:, event], bins=8, min=0, max=1)
        assert_same_distribution(counts, below[event].diff(), f"event {event}")


def test_samples_with_fewer_masks_have_fewer_events() -> None:
    levels = hitting_levels(torch.tensor([0, 1, 4]), 4, Generator().manual_seed(0))
    assert (levels > 0).sum(1).tolist() == [0, 1, 4]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_network_is_asked_at_the_times_of_the_process(schedule: str) -> None:
    """With as many steps as tokens: a mask is there at t with odds 1 - alpha(t), whatever the schedule."""
    model = watched(schedule, 2, 20_000, 2)
    assert [int((x == V).sum()) for x, _, _ in model.asked] == [40_000, 20_000]
    (_, first, then), (_, second, end) = model.asked
    torch.testing.assert_close(then, second)
    assert (end == 0).all()
    for time, law in ((first, lambda x: x**2), (second, lambda x: 2 * x - x**2)):  # of the higher, and of the lower
        levels = 1 - model.process.schedule.alpha(time.double())
        counts = torch.histc(levels, bins=8, min=0, max=1)
        # The linear schedule stops 1e-4 before its ends; a cell's share moves by less than the test can see.
        assert_same_distribution(counts, law(torch.linspace(0, 1, 9, dtype=torch.float64)).diff(), schedule)


def test_every_order_has_equal_odds() -> None:
    model, shown = PROCESSES.build("masked", vocab_size=V), []

    def note(state: StepState) -> None:
        shown.append(state.x == V)

    sampler = SAMPLERS.build("first_hitting")
    sampler.sample(Watched(model, 3), 6000, steps=3, generator=Generator().manual_seed(0), on_step=note)
    when = torch.stack(shown).sum(0)
    counts = torch.bincount(when[:, 0] * 3 + when[:, 1], minlength=9)
    law = torch.tensor([float(first != second) for first in range(3) for second in range(3)]) / 6
    assert_same_distribution(counts, law, "orders")


@pytest.mark.parametrize("steps", [L, 4 * L])
def test_an_evaluation_an_event_gives_the_exact_law(steps: int) -> None:
    source = Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=16))
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    out = SAMPLERS.build("first_hitting").sample(oracle, 10_000, steps=steps, generator=Generator().manual_seed(1))
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    index = (out.x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    assert_same_distribution(
        torch.bincount(index, minlength=V**L), source.log_likelihood(every).exp(), f"{steps} steps"
    )
    assert out.nfe == L


def test_fewer_steps_share_evaluations_evenly() -> None:
    def until(total: int, steps: int) -> list[int]:
        events = torch.tensor([total])
        return [int(events_until(events, Step(i, steps, 1.0, 0.0))) for i in range(steps)]

    assert until(8, 4) == [2, 4, 6, 8]
    assert until(7, 3) == [2, 4, 7]
    assert until(3, 5) == [1, 2, 3, 3, 3]
    assert until(0, 2) == [0, 0]


def test_each_sample_has_events_of_its_own_number() -> None:
    given = torch.tensor([[-1, -1, -1, -1, -1, -1], [0, -1, 1, -1, 2, -1], [0, 0, 0, 0, 0, 0]])
    model = watched("linear", 6, 3, 4, given)
    left = [(x == V).sum(1).tolist() for x, _, _ in model.asked]
    assert left == [[6, 3], [5, 2], [3, 1], [2]]
    assert model.evaluated == 4 + 3
    for (_, _, then), (_, now, _) in itertools.pairwise(model.asked[:3]):
        torch.testing.assert_close(then, now)  # an evaluation is told that it leads to the next one


def test_a_recipe_cannot_give_it_a_grid() -> None:
    recipe = {
        "name": "r",
        "data": "markov",
        "process": "masked",
        "backbone": "transformer",
        "objective": "denoising",
        "train": {"steps": 1},
    }
    parse = lambda sampler: parse_recipe({**recipe, "sampler": sampler}, source="r")  # noqa: E731
    parse({"type": "first_hitting"})
    with pytest.raises(RecipeError, match="leave the grid out"):
        parse({"type": "first_hitting", "grid": "cosine"})
