"""Gibbs corrections: they preserve the joint distribution at every time, and mend tokens that were drawn at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from enumerable_denoisers import ExactRows
from noised_laws import counts, distance, law_at
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.recipe import load_recipe
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.gibbs import GibbsSampler
from fewstep.samplers.walk import Step, Walk
from fewstep.testing.statistics import assert_same_distribution

V, L = 3, 3


def uniform() -> DiscreteProcess:
    return PROCESSES.build("uniform", vocab_size=V)  # type: ignore[return-value]


def law() -> Tensor:
    """A joint distribution of three tokens that depend on each other."""
    table = torch.rand(V, V, V, generator=Generator().manual_seed(3), dtype=torch.float64) ** 4
    return table / table.sum()


def build(**settings: Any) -> GibbsSampler:
    sampler = SAMPLERS.build({"type": "gibbs", **settings})
    assert isinstance(sampler, GibbsSampler)
    return sampler


def states_at(process: DiscreteProcess, t: float, count: int, generator: Generator) -> Tensor:
    """Draws of z_t from its enumerated distribution."""
    index = torch.multinomial(law_at(process, law(), t).flatten(), count, replacement=True, generator=generator)
    return torch.stack([index // V ** (L - 1 - i) % V for i in range(L)], 1)


@pytest.mark.parametrize("output", ["leave_one_out", "x_mean"])
@pytest.mark.parametrize("t", [0.15, 0.6])
def test_one_token_given_the_others_preserves_the_joint_distribution(t: float, output: str) -> None:
    process, rng = uniform(), Generator().manual_seed(0)
    sampler, network = build(positions=1), ExactRows(process, law(), output)
    z = states_at(process, t, 40_000, rng)
    walk = Walk(network, sampler.config, Condition(), rng)
    with torch.no_grad():
        corrected = sampler.correct(walk, z, Step(0, 4, t, 0.0))
    assert float((corrected != z).any(1).double().mean()) > 0.1
    assert bool(((corrected != z).sum(1) <= 1).all())
    assert_same_distribution(counts(corrected, V), law_at(process, law(), t).flatten(), f"{output} at {t}")


def test_masks_and_shown_tokens_preserve_it_too() -> None:
    process, rng, t = PROCESSES.build("masked", vocab_size=V), Generator().manual_seed(0), 0.4
    assert isinstance(process, DiscreteProcess)
    source = Markov(Markov.Config(vocab_size=V, length=L, successors=1, smoothing=0.2, size=8))
    right = law_at(process, source.ngram_probs(L), t).flatten()
    index = torch.multinomial(right, 40_000, replacement=True, generator=rng)
    z = torch.stack([index // (V + 1) ** (L - 1 - i) % (V + 1) for i in range(L)], 1)
    sampler = build(positions=1)
    corrected = sampler.correct(
        Walk(exact_denoiser(source, process), sampler.config, Condition(), rng), z, Step(0, 4, t, 0.0)
    )
    assert float((corrected != z).any(1).double().mean()) > 0.1
    assert_same_distribution(counts(corrected, V + 1), right, "masked")


def test_it_mends_a_wrong_state() -> None:
    """From independent tokens with the right marginals corrections lead to the joint distribution."""
    process, rng, t = uniform(), Generator().manual_seed(0), 0.3
    sampler, network = build(positions=1), ExactRows(process, law())
    right = law_at(process, law(), t)
    z = torch.stack([column[torch.randperm(8000, generator=rng)] for column in states_at(process, t, 8000, rng).T], 1)
    walk, errors = Walk(network, sampler.config, Condition(), rng), []
    with torch.no_grad():
        for _ in range(13):
            errors.append(float((counts(z, V) / len(z) - right.flatten()).abs().sum() / 2))
            z = sampler.correct(walk, z, Step(0, 4, t, 0.0))
    assert errors[0] > 0.1
    assert errors[-1] < 0.04


def test_few_steps_come_nearer_to_the_distribution() -> None:
    source = Markov(Markov.Config(vocab_size=V, length=4, successors=1, smoothing=0.2, size=8))
    oracle = exact_denoiser(source, uniform())
    errors = {}
    for corrections in (0, 4):
        sampler = build(corrections=corrections, positions=1)
        samples = sampler.sample(oracle, 6000, steps=4, generator=Generator().manual_seed(1))
        errors[corrections] = distance(samples.x, source)
        assert samples.nfe == 4 + 3 * corrections
    assert errors[4] < errors[0] - 0.05


def test_without_corrections_it_is_ancestral() -> None:
    network = ExactRows(uniform(), law())
    draws = [
        SAMPLERS.build(config).sample(network, 50, steps=5, generator=Generator().manual_seed(2)).x
        for config in ("ancestral", {"type": "gibbs", "corrections": 0})
    ]
    assert torch.equal(*draws)


def test_the_number_of_tokens_and_which_they_are() -> None:
    process, rng, t = uniform(), Generator().manual_seed(0), 0.5
    network, z = ExactRows(process, law()), torch.randint(V, (200, L), generator=rng)
    rows = process.leave_one_out(network(z, torch.full((200,), t)), z, torch.full((200,), t))
    prompt = torch.full((200, L), -1)
    prompt[:, 0] = z[:, 0]
    for positions, count in ((0.34, 1), (2, 2), (0.7, 2), (9, L)):
        sampler = build(positions=positions)
        walk = Walk(network, sampler.config, Condition(), rng)
        assert bool((sampler.choose(walk, rows, z).sum(1) == count).all()), positions
        held = sampler.choose(Walk(network, sampler.config, Condition(prompt=prompt), rng), rows, z)
        assert not held[:, 0].any()
        assert bool((held.sum(1) == min(count, L - 1)).all())
    unlikely = build(positions=1, places="unlikely")
    chosen = unlikely.choose(Walk(network, unlikely.config, Condition(), rng), rows, z)
    assert torch.equal(chosen.double().argmax(1), rows.nll(z).argmax(1))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["sampler.positions=1.5"], "takes a share below 1, or a whole number of tokens"),
        (["process=masked", "sampler.places=unlikely"], "masks are neither likely nor unlikely; set places to random"),
    ],
)
def test_what_cannot_work_is_refused(sets: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("coins-uniform-teacher", ["sampler.type=gibbs", *sets])
    assert message in str(caught.value)
