"""Exact sources and oracles of the plugin kit agree with each other, and with what is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from fewstep import testing
from fewstep.core.kinds import KINDS, registry
from fewstep.objectives.base import OBJECTIVES
from fewstep.processes.base import PROCESSES, Process
from fewstep.testing import (
    CHECKS,
    Coins,
    EnumeratedOracle,
    FreeDenoiser,
    Markov,
    all_sequences,
    check_component,
    exact_denoiser,
    exact_distribution,
    loss_of,
    sequence_shares,
    total_variation,
)

V, L = 3, 3


def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=2, size=64))


def processes() -> list[Process]:
    return [PROCESSES.build(name, vocab_size=V) for name in ("masked", "uniform")]


def test_every_kind_has_a_check() -> None:
    assert set(CHECKS) == set(KINDS)
    assert all(check.__name__.endswith(registry(kind).kind.split()[-1]) for kind, check in CHECKS.items())
    check_component("grid", "linear")
    check_component("grids", "cosine")


def test_everything_public_is_documented() -> None:
    things = [getattr(testing, name) for name in testing.__all__]
    assert not [thing for thing in things if callable(thing) and not thing.__doc__]


def test_the_distribution_of_a_chain_sums_to_one_and_has_its_ngrams() -> None:
    law = exact_distribution(source())
    assert law.shape == (V,) * L
    torch.testing.assert_close(law, source().ngram_probs(L))


@pytest.mark.parametrize("sign", ["agree", "opposite"])
def test_coins_have_their_odds(sign: str) -> None:
    law = exact_distribution(Coins(Coins.Config(odds=0.75, size=64, sign=sign)))
    side = 1 if sign == "agree" else 0
    assert (float(law[1, side]), float(law[0, 1 - side])) == (0.75, 0.25)
    assert float(law.sum()) == 1


def test_enumeration_agrees_with_the_chain_on_every_process() -> None:
    """Two ways to the same posterior: forward-backward, and a sum over all sequences."""
    law, rng = exact_distribution(source()), torch.Generator().manual_seed(0)
    for process in processes():
        oracle, chain = EnumeratedOracle(process, law), exact_denoiser(source(), process)
        for t in (torch.full((64,), 0.4), torch.rand(64, L, generator=rng).clamp(0.05, 0.95)):
            x_t = process.corrupt(source().train, t, generator=rng).x_t
            a, b = oracle(x_t, t).log_probs().exp(), chain(x_t, t).log_probs().exp()
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=process.config.type)


def test_a_state_that_nothing_explains_is_predicted_by_the_distribution() -> None:
    process = PROCESSES.build("masked", vocab_size=2)
    law = exact_distribution(Coins())
    oracle = EnumeratedOracle(process, law)
    states = torch.tensor([[0, 1], [0, 2]])
    posterior = oracle.posterior(states, torch.full((2,), 0.5))
    torch.testing.assert_close(posterior, torch.stack([law.flatten(), torch.tensor([1.0, 0, 0, 0]).double()]))


def test_total_variation() -> None:
    law = exact_distribution(Coins())
    assert total_variation(torch.tensor([[0, 0], [1, 1]]), law) == 0
    assert total_variation(torch.tensor([[0, 1]]), law) == 1
    assert total_variation(all_sequences(2, 2), law) == 0.5
    assert torch.equal(sequence_shares(all_sequences(2, 3), 2), torch.full((2, 2, 2), 1 / 8).double())


def test_too_many_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="too many to enumerate"):
        all_sequences(10, 30)


def test_the_free_denoiser_has_a_gradient_at_every_state_that_is_seen() -> None:
    process = PROCESSES.build("uniform", vocab_size=2)
    free = FreeDenoiser(process, length=2)
    every = all_sequences(2, 2)
    torch.autograd.backward(free(every, torch.full((4,), 0.5)).nll(every).sum())
    assert free.logits.grad is not None
    assert bool(free.logits.grad.ne(0).all())


def test_the_loss_of_an_objective_is_repeatable_and_right() -> None:
    """Denoising of one fair pair of coins by the exact denoiser: log 2 where both are hidden, else nothing."""
    process = PROCESSES.build("masked", vocab_size=2)
    oracle = EnumeratedOracle(process, exact_distribution(Coins()))
    objective = OBJECTIVES.build("denoising")
    data = Coins().train
    losses = [float(loss_of(objective, process, {"student": oracle}, data, seed=seed).loss) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    # Both are hidden with probability E[t^2] = 1/3.
    assert abs(losses[0] - math.log(2) / 3) < 0.02
