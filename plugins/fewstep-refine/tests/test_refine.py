"""Both samplers keep fewstep's contract, on exact networks: what is kept, what is noise, who is finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fewstep_refine import RefineByConfidence, RefineByEntropy
from torch import Tensor

from fewstep import SAMPLERS, load_recipe
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import MarkovOracle, exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, discrete
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import StepState
from fewstep.testing import check_sampler
from fewstep.testing.exact import RowsDenoiser

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
SOURCE = Markov(Markov.Config(vocab_size=4, length=8, successors=2, smoothing=0.1, size=8))


def exact() -> MarkovOracle:
    return exact_denoiser(SOURCE, PROCESSES.build("uniform", vocab_size=4))


@pytest.mark.parametrize("config", [RefineByConfidence.Config(), RefineByEntropy.Config(budget=0.5)])
def test_they_keep_the_contract(config: RefineByConfidence.Config | RefineByEntropy.Config) -> None:
    check_sampler(config)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    assert load_recipe(recipe).recipe.name == recipe.stem


@pytest.mark.parametrize("name", ["refine_confidence", "refine_entropy"])
def test_samples_are_repeated_in_any_batch(name: str) -> None:
    sampler, denoiser = SAMPLERS.build(name), exact()
    whole = sampler.sample(denoiser, 6, steps=5, generator=SampleStreams(3, range(6)))
    part = sampler.sample(denoiser, 2, steps=5, generator=SampleStreams(3, range(4, 6)))
    assert torch.equal(whole.x[4:], part.x)


class Sure(RowsDenoiser):
    """Symbol 0 at every place; the doubt grows with the place. It remembers the times that it was asked at."""

    def __init__(self, length: int) -> None:
        super().__init__(discrete(PROCESSES.build("uniform", vocab_size=4)), length)
        self.asked: list[Tensor] = []

    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append(t)
        doubt = 1e-9 + 1e-12 * torch.arange(self.length, dtype=torch.float64)
        rest = (doubt / 3)[:, None].expand(-1, 3)
        return torch.cat((1 - doubt[:, None], rest), 1).log().expand(len(x_t), -1, -1)


@pytest.mark.parametrize("order", ["entropy", "random"])
def test_a_state_has_as_much_noise_as_its_time_says(order: str) -> None:
    denoiser, states = Sure(64), list[StepState]()
    sampler = SAMPLERS.build({"type": "refine_confidence", "order": order})
    samples = sampler.sample(denoiser, 400, steps=4, generator=SampleStreams(0, range(400)), on_step=states.append)
    assert (samples.x == 0).all()
    for state, noisy in zip(states, (48, 32, 16), strict=False):
        places = 64 - noisy if order == "entropy" else 0
        assert (state.x[:, :places] == 0).all(), "the surest are kept"
        others = (state.x != 0).double().sum(1)
        error = (noisy * 0.75 * 0.25 / 400) ** 0.5
        assert float(others.mean()) == pytest.approx(noisy * 0.75, abs=4 * error), "all others are noise"


def test_finished_samples_are_not_evaluated_again() -> None:
    denoiser = exact()
    loose = SAMPLERS.build({"type": "refine_entropy", "budget": 100.0})
    assert loose.sample(denoiser, 8, steps=16, generator=SampleStreams(0, range(8))).nfe == 1
    counts = {}
    for budget in (0.0, 0.3, 3.0):
        sampler = SAMPLERS.build({"type": "refine_entropy", "budget": budget})
        counts[budget] = sampler.sample(denoiser, 32, steps=64, generator=SampleStreams(0, range(32))).nfe
    assert counts[3.0] < counts[0.3] <= counts[0.0] <= 64


@pytest.mark.parametrize("name", ["refine_confidence", "refine_entropy"])
def test_given_tokens_stay(name: str) -> None:
    prompt = torch.full((5, 8), -1)
    prompt[:, 2], prompt[4] = 1, SOURCE.train[:1][0].long()
    samples = SAMPLERS.build(name).sample(
        exact(), 5, steps=6, generator=SampleStreams(0, range(5)), cond=Condition(prompt=prompt)
    )
    assert (samples.x[:, 2][:4] == 1).all()
    assert torch.equal(samples.x[4], prompt[4])


def test_the_network_is_asked_at_the_time_of_the_state() -> None:
    """Each token has entropy h, so a budget of 9.5 h keeps ten, more than the grid's eight."""
    denoiser = Sure(16)
    doubt = 1e-9
    entropy = -(1 - doubt) * torch.tensor(1 - doubt, dtype=torch.float64).log() - doubt * torch.tensor(doubt / 3).log()
    sampler = SAMPLERS.build({"type": "refine_entropy", "budget": 9.5 * float(entropy)})
    sampler.sample(denoiser, 3, steps=2, generator=SampleStreams(0, range(3)))
    schedule = denoiser.process.schedule
    assert [schedule.alpha(t.double()).tolist() for t in denoiser.asked] == [
        [pytest.approx(0, abs=1e-3)] * 3,
        [pytest.approx(10 / 16, abs=1e-6)] * 3,
    ]
