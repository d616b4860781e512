"""What steps cost and which are cheapest: against enumeration, closed forms and a search of everything."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
import torch
from enumerable_denoisers import LeaveOneOut, TimedOracle
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import MarkovOracle, exact_denoiser
from fewstep.evaluation.grid_search import search_grids
from fewstep.grids.base import GRIDS
from fewstep.grids.search import cheapest_paths, path_cost
from fewstep.likelihood.step_costs import StepCosts, drawn_rows, revealed_share, step_divergence
from fewstep.processes.base import PROCESSES, posterior_rows

V, L = 2, 3


@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_paths_are_those_of_a_search_of_all(seed: int) -> None:
    n = 7
    cost = torch.rand(n, n, generator=Generator().manual_seed(seed), dtype=torch.float64)
    cost = torch.where(torch.ones(n, n).triu(1).bool(), cost, float("inf"))
    paths = cheapest_paths(cost, range(1, n))
    for steps, path in paths.items():
        every = [(0, *between, n - 1) for between in itertools.combinations(range(1, n - 1), steps - 1)]
        assert path == list(min(every, key=lambda one: path_cost(cost, one)))
    assert paths[n - 1] == list(range(n))
    assert paths[1] == [0, n - 1]


def masked_by_enumeration(source: Markov, times: list[float]) -> float:
    """The walk's bound, summed over all sequences and all sets of masks."""
    process = PROCESSES.build("masked", vocab_size=V)
    joint, total = source.ngram_probs(L), 0.0
    for t, s in pairwise(times):
        noise = 1 - float(process.schedule.alpha(torch.tensor(t, dtype=torch.float64)))
        for masks in itertools.chain.from_iterable(itertools.combinations(range(L), n) for n in range(1, L + 1)):
            seen = joint.sum(masks, keepdim=True)
            rows = [
                joint.sum([place for place in masks if place != here], keepdim=True) if len(masks) > 1 else joint
                for here in masks
            ]
            nll = -sum((row * (row / seen).log()).sum() for row in rows)
            chance = noise ** len(masks) * (1 - noise) ** (L - len(masks))
            total += float(chance * revealed_share(process, t, s) * nll)
    return total


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=1, smoothing=0.2, size=8))


def costs(source: Markov, process: str, count: int = 4000) -> StepCosts:
    oracle = exact_denoiser(source, PROCESSES.build(process, vocab_size=V))
    return StepCosts(oracle, source.draw(count, Generator().manual_seed(5)), batch_size=1500)


@pytest.mark.parametrize("steps", [1, 2, 5, 64])
def test_masked_walks_cost_what_enumeration_says(steps: int, source: Markov) -> None:
    """4,000 samples; their mean is off by about 1.5 % (one standard deviation), so that 7 % is no chance."""
    times = GRIDS.build("linear").times(steps)
    assert costs(source, "masked").walk(times) == pytest.approx(masked_by_enumeration(source, times), rel=0.07)


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_fine_walks_cost_the_negative_log_likelihood(process: str, source: Markov) -> None:
    """Exact predictions make the bound tight as steps grow, for both processes, and looser the fewer they are."""
    entropy = -float((source.ngram_probs(L) * source.ngram_probs(L).log()).sum())
    measured = costs(source, process)
    found = [measured.walk(GRIDS.build("linear").times(steps)) for steps in (1, 4, 16, 64)]
    assert all(later < earlier for earlier, later in pairwise(found))
    assert found[-1] == pytest.approx(entropy, rel=0.07)
    assert found[0] == pytest.approx(L * 0.693, rel=0.07)  # tokens alone are fair coins


def test_a_token_alone_costs_its_entropy_on_every_grid() -> None:
    """With exact predictions, drawing x first is the true reverse process of one token; plugging in is not."""
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    oracle = TimedOracle(PROCESSES.build("uniform", vocab_size=3), law)
    data = torch.tensor([0] * 6 + [1] * 3 + [2]).repeat(600)[:, None]
    entropy = -float((law * law.log()).sum())
    for times in ([1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.9, 0.8, 0.2, 0.0]):
        assert StepCosts(oracle, data).walk(times) == pytest.approx(entropy, rel=0.03)
    times = GRIDS.build("linear").times(8)
    drawn, plugged = (StepCosts(oracle, data, posterior=kind).walk(times) for kind in ("drawn", "plugged"))
    assert plugged > drawn + 0.01  # the same noise in both


def test_a_plugged_walk_scores_its_last_step_by_the_plugged_row() -> None:
    """Plugging in what is known without the token itself is the true reverse process of one token, last step included.

    -log x_theta of the last step would cost the entropy of the law instead of what z_t leaves of it.
    """
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    oracle = LeaveOneOut(TimedOracle(PROCESSES.build("uniform", vocab_size=3), law))
    data = torch.tensor([0] * 6 + [1] * 3 + [2]).repeat(600)[:, None]
    entropy = -float((law * law.log()).sum())
    for times in ([1.0, 0.0], [1.0, 0.5, 0.0], [1.0, 0.9, 0.8, 0.2, 0.0], GRIDS.build("linear").times(32)):
        assert StepCosts(oracle, data, posterior="plugged").walk(times) == pytest.approx(entropy, rel=0.03)


def test_a_plugged_walk_of_a_chain_costs_its_entropy(source: Markov) -> None:
    """Leave-one-out predictions, plugged in, are tight in many steps; -log x_theta alone would be twice as much."""
    entropy = -float((source.ngram_probs(L) * source.ngram_probs(L).log()).sum())
    oracle = LeaveOneOut(exact_denoiser(source, PROCESSES.build("uniform", vocab_size=V)))
    data = source.draw(4000, Generator().manual_seed(5))
    walk = StepCosts(oracle, data, posterior="plugged").walk(GRIDS.build("linear").times(64))
    assert walk == pytest.approx(entropy, rel=0.05)


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_drawing_first_is_a_mean_over_what_is_drawn(name: str) -> None:
    process, rng = PROCESSES.build(name, vocab_size=3), Generator().manual_seed(0)
    p = torch.rand(20, 3, generator=rng, dtype=torch.float64)
    p /= p.sum(1, keepdim=True)
    z = torch.full((20,), 3) if name == "masked" else torch.randint(3, (20,), generator=rng)
    t = 0.2 + 0.8 * torch.rand(20, generator=rng, dtype=torch.float64)
    s = t * 0.9 * torch.rand(20, generator=rng, dtype=torch.float64)
    each = sum(p[:, x, None] * posterior_rows(process, torch.full((20,), x), z, t, s) for x in range(3))
    torch.testing.assert_close(drawn_rows(process, p, z, t, s), each)
    if name == "masked":  # and both laws are one, whose divergence has a closed form
        torch.testing.assert_close(posterior_rows(process, p, z, t, s), each)
        x0 = torch.randint(3, (20,), generator=rng)
        shares = torch.tensor([revealed_share(process, *pair) for pair in zip(t.tolist(), s.tolist(), strict=True)])
        closed = -shares * p.gather(1, x0[:, None])[:, 0].log()
        for posterior in ("drawn", "plugged"):
            torch.testing.assert_close(step_divergence(process, p.log(), x0, z, t, s, posterior), closed)  # type: ignore[arg-type]


def test_a_search_of_a_masked_model_takes_an_evaluation_a_time(source: Markov) -> None:
    measured = costs(source, "masked", 500)
    fine, summary, walks = search_grids(measured, 16, [2, 4, 16])
    assert summary.evaluations == 16
    assert len(summary.steps) == 16
    assert summary.finest == pytest.approx(sum(summary.steps))
    for steps, walk in walks.items():
        assert len(walk.times) == steps + 1
        assert set(walk.times) <= set(fine)
        assert walk.cost <= walk.linear + 1e-9  # equal steps are among those that were searched
        assert walk.cost == pytest.approx(measured.walk(walk.times))
        assert summary.finest <= walk.cost + 1e-9 <= summary.coarsest + 2e-9
    assert walks[16].times == tuple(fine)


def test_networks_that_are_told_their_step_are_asked_for_each(source: Markov) -> None:
    class Told(MarkovOracle):
        conditioned_on_steps = True

    oracle = Told(source.chain, source.spec.length, PROCESSES.build("masked", vocab_size=V))
    told = StepCosts(oracle, source.draw(50, Generator().manual_seed(5)))
    plain = StepCosts(exact_denoiser(source, oracle.process), told.data)
    torch.testing.assert_close(told.row(0.8, [0.6, 0.4, 0.0]), plain.row(0.8, [0.6, 0.4, 0.0]))
    assert isinstance(oracle, Denoiser)
    assert oracle.nfe == 3


def test_batches_and_repeats_change_nothing(source: Markov) -> None:
    def row(size: int, seed: int) -> Tensor:
        measured = costs(source, "uniform", 40)
        measured.batch_size, measured.seed = size, seed
        return measured.row(0.7, [0.3, 0.0])

    assert torch.equal(row(40, 0), row(40, 0))
    assert not torch.equal(row(40, 0), row(40, 1))
    assert row(7, 0).shape == (2,)
