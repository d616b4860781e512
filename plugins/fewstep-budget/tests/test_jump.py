"""A jump over a step against its formula, and stages against all states."""

from __future__ import annotations

import pytest
import torch
from fewstep_budget import CumulativeSampler, cumulative_jump, runge_kutta
from fewstep_budget.stages import LOWEST, WEIGHTS, mean_of_stages
from torch import Generator, Tensor

from fewstep import PROCESSES, SAMPLERS
from fewstep.denoisers.base import NOTHING
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import DiscreteProcess, discrete
from fewstep.testing import (
    EnumeratedOracle,
    Markov,
    RowsDenoiser,
    assert_same_distribution,
    check_sampler,
    exact_distribution,
    total_variation,
)

UNIFORM = discrete(PROCESSES.build("uniform", vocab_size=4))
ROW = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
COUNT = 40_000


def jumped(t: float, s: float, z: int, row: Tensor = ROW) -> Tensor:
    """Counts of the four states after a jump from z."""
    x = torch.full((COUNT, 1), z)
    prediction = TablePrediction(row.log().expand(COUNT, 1, 4), x, torch.ones_like(x, dtype=torch.bool))
    times = (torch.full((COUNT,), time, dtype=torch.float64) for time in (t, s))
    states = cumulative_jump(UNIFORM, prediction, x, *times, generator=Generator().manual_seed(0))
    return torch.bincount(states[:, 0], minlength=4)


def law(t: float, s: float, z: int, row: Tensor = ROW) -> Tensor:
    """P(stay) = r^(1 - p(z)), and all others in proportion to p."""
    noise = [float(UNIFORM.schedule.noise(torch.tensor(time, dtype=torch.float64))) for time in (t, s)]
    stay = (noise[1] / noise[0]) ** (1 - float(row[z]))
    out = row.clone()
    out[z] = 0.0
    out *= (1 - stay) / out.sum()
    out[z] = stay
    return out


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.5, 0.4), (0.9, 0.1)])
@pytest.mark.parametrize("z", [0, 3])
def test_a_jump_has_its_probabilities(t: float, s: float, z: int) -> None:
    assert_same_distribution(jumped(t, s, z), law(t, s, z), f"from {z}, {t} to {s}")


def test_what_is_certain_stays() -> None:
    certain = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert int(jumped(1.0, 0.0, 0, certain)[0]) == COUNT
    assert int(jumped(0.5, 0.0, 1, certain)[0]) == pytest.approx(COUNT, abs=COUNT * 1e-3), "the last noise is 1e-4"


def test_it_leaves_more_often_than_the_flow_and_agrees_in_short_steps() -> None:
    for length, gap in ((0.9, 0.05), (0.001, 1e-5)):
        ratio = float(UNIFORM.schedule.noise(torch.tensor(0.95 - length)) / UNIFORM.schedule.noise(torch.tensor(0.95)))
        flow = (1 - ratio) * (1 - 0.4)
        ours = 1 - float(law(0.95, 0.95 - length, 3)[3])
        assert flow < ours
        assert (ours - flow > gap) == (length > 0.5)


def test_the_sampler_keeps_its_contract() -> None:
    check_sampler(CumulativeSampler.Config())


def test_masks_are_drawn_as_by_the_flow() -> None:
    source = Markov(Markov.Config(vocab_size=3, length=3, successors=2, smoothing=0.2, size=8))
    oracle = EnumeratedOracle(PROCESSES.build("masked", vocab_size=3), exact_distribution(source))
    ours, flow = (
        SAMPLERS.build(name).sample(oracle, 50, steps=3, generator=Generator().manual_seed(0)).x
        for name in ("cumulative", "flow")
    )
    assert torch.equal(ours, flow)


def test_samples_near_the_source_as_steps_grow() -> None:
    source = Markov(Markov.Config(vocab_size=3, length=3, successors=2, smoothing=0.2, size=8))
    exact = exact_distribution(source)
    oracle = EnumeratedOracle(PROCESSES.build("uniform", vocab_size=3), exact)
    gaps = [
        total_variation(
            CumulativeSampler().sample(oracle, 8000, steps=n, generator=Generator().manual_seed(0)).x, exact
        )
        for n in (1, 4, 64)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05


class Recording(RowsDenoiser):
    """Even rows; remembers states, times and lengths that it was asked with."""

    def __init__(self, process: DiscreteProcess) -> None:
        super().__init__(process, 2)
        self.asked = list[tuple[float, float]]()
        self.rows_seen = list[Tensor]()

    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.rows_seen.append(x_t)
        return torch.full((*x_t.shape, 4), 0.25, dtype=torch.float64).log()

    def forward(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **others: object) -> TablePrediction:
        assert s is not None
        self.asked.append((round(float(t[0]), 6), round(float(t[0] - s[0]), 6)))
        return super().forward(x_t, t, s, **others)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(("solver", "times"), [("heun", [1, 0.75]), ("rk4", [1, 0.75, 0.75, 0.5])])
def test_stages_are_asked_at_their_times_with_half_the_length(solver: str, times: list[float]) -> None:
    network = Recording(UNIFORM)
    x, t = torch.zeros(3, 2, dtype=torch.long), torch.ones(3, dtype=torch.float64)
    stages = runge_kutta(network, x, t, t / 2, solver, NOTHING, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
    assert network.asked == [(time, 0.25) for time in times]
    assert len(stages) == len(WEIGHTS[solver]) == len(times)  # type: ignore[index]
    assert sum(WEIGHTS[solver]) == pytest.approx(1)  # type: ignore[index]


def test_chained_stages_go_on_from_one_another() -> None:
    """Tokens that have jumped: 1/4 left at the middle; from the start each stage begins anew, in a row they add up."""
    changed = {}
    for solver in ("rk4", "rk4_chained"):
        network = Recording(UNIFORM)
        x, t = torch.zeros(20_000, 2, dtype=torch.long), torch.ones(20_000, dtype=torch.float64)
        runge_kutta(network, x, t, t / 2, solver, NOTHING, generator=Generator().manual_seed(0))  # type: ignore[arg-type]
        changed[solver] = [float((state != 0).double().mean()) for state in network.rows_seen]
    once = 1 - float(law(1.0, 0.75, 0, torch.full((4,), 0.25, dtype=torch.float64))[0])
    whole = 1 - float(law(1.0, 0.5, 0, torch.full((4,), 0.25, dtype=torch.float64))[0])
    assert changed["rk4"] == pytest.approx([0, once, once, whole], abs=0.01)
    assert changed["rk4_chained"][2] > once + 0.05
    assert changed["rk4_chained"][3] > whole + 0.02


def test_means_of_stages() -> None:
    rows = (torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.9, 0.05, 0.05]]).log())
    even = mean_of_stages(rows, (0.5, 0.5), "probabilities").exp()
    torch.testing.assert_close(even, torch.tensor([[0.7, 0.275, 0.025]]))
    geometric = mean_of_stages(rows, (0.5, 0.5), "logits").exp()
    weights = torch.tensor([[0.45**0.5, 0.025**0.5, (torch.tensor(LOWEST).exp() * 0.05) ** 0.5]])
    torch.testing.assert_close(geometric, weights / weights.sum())
