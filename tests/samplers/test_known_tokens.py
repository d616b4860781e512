"""Samples given known tokens follow the conditional distribution, which enumeration knows."""

from __future__ import annotations

import pytest
import torch
from enumerable_denoisers import LeaveOneOut
from torch import Generator

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import MarkovOracle, exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.templates import approximation
from fewstep.testing.statistics import chi_square_sigmas

COUNT, L, V = 6000, 3, 2
SOURCE = Markov(Markov.Config(vocab_size=V, length=L, successors=1, smoothing=0.2, size=8))
JOINT = SOURCE.ngram_probs(L)


class OneTime(MarkovOracle):
    """The exact denoiser of a network with one time for all tokens of a sample."""

    takes_token_times = False  # type: ignore[assignment]


def sigmas_off(denoiser: Denoiser, prompt: list[int], sampler: dict[str, object], steps: int = 64) -> float:
    """Standard deviations between samples with a prompt (-1: free) and the exact conditional distribution."""
    known = torch.tensor(prompt)
    x = (
        SAMPLERS.build(sampler)
        .sample(
            denoiser,
            COUNT,
            steps=steps,
            generator=Generator().manual_seed(0),
            cond=Condition(prompt=known.expand(COUNT, L)),
        )
        .x
    )
    assert bool((x == known)[:, known >= 0].all())
    place = torch.tensor([V**i for i in reversed(range(L))])
    every = torch.cartesian_prod(*[torch.arange(V)] * L)
    agrees = ((every == known) | (known < 0)).all(1)
    return chi_square_sigmas(torch.bincount(x @ place, minlength=V**L), JOINT.flatten() * agrees)


@pytest.mark.parametrize("prompt", [[1, -1, -1], [-1, 0, -1], [-1, -1, 1], [0, -1, 1]])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_exact_denoisers_condition_exactly(process: str, prompt: list[int]) -> None:
    denoiser = exact_denoiser(SOURCE, PROCESSES.build(process, vocab_size=V))
    assert sigmas_off(denoiser, prompt, {"type": "ancestral"}) < 5


@pytest.mark.parametrize("sampler", ["analytic", "tau_leaping", "euler", "psi", "corrector", "flow"])
def test_every_sampler_of_the_uniform_process_does(sampler: str) -> None:
    """Those with an error of the order of a step take more of them."""
    denoiser = exact_denoiser(SOURCE, PROCESSES.build("uniform", vocab_size=V))
    assert sigmas_off(denoiser, [1, -1, -1], {"type": sampler}, steps=256) < 5


def test_leave_one_out_predictions_plugged_in_do() -> None:
    denoiser = LeaveOneOut(exact_denoiser(SOURCE, PROCESSES.build("uniform", vocab_size=V)))
    assert sigmas_off(denoiser, [1, -1, -1], {"type": "ancestral", "posterior": "plugged"}) < 5


def test_one_time_for_all_tokens_is_another_distribution() -> None:
    """Why networks with one time a sample are warned of, and proof that the tests above can fail."""
    process = PROCESSES.build("uniform", vocab_size=V)
    denoiser = OneTime(SOURCE.chain, L, process)
    assert sigmas_off(denoiser, [1, -1, -1], {"type": "ancestral"}) > 15
    masked = OneTime(SOURCE.chain, L, PROCESSES.build("masked", vocab_size=V))
    assert sigmas_off(masked, [1, -1, -1], {"type": "ancestral"}) < 5, "masks show what is known"


def warning(process: str, rows: list[list[int]], block_size: int | None = None, cls: type = OneTime) -> str | None:
    denoiser = cls(SOURCE.chain, 4, PROCESSES.build(process, vocab_size=V), block_size)
    return approximation(denoiser, torch.tensor(rows))


def test_a_warning_says_where_it_is_approximate() -> None:
    part = [[-1, -1, -1, -1], [0, -1, -1, -1]]
    message = warning("uniform", part)
    assert message is not None
    assert message.startswith("samples follow the known tokens only approximately: in the uniform process")
    assert warning("masked", part) is None
    assert warning("uniform", part, cls=MarkovOracle) is None
    assert warning("uniform", [[0, 1, 1, 0]]) is None, "nothing is drawn"
    assert warning("uniform", [[-1] * 4]) is None, "nothing is known"
    assert warning("uniform", [[0, 1, -1, -1]], block_size=2) is None, "the next block reads the first one"
    assert warning("uniform", [[0, -1, -1, -1]], block_size=2) is not None


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_a_network_of_blocks_follows_no_later_token(process: str) -> None:
    message = warning(process, [[-1, -1, 0, 1]], block_size=2, cls=MarkovOracle)
    assert message is not None
    assert "draws block by block" in message
    assert warning(process, [[0, 0, 0, -1], [0, -1, -1, -1]], block_size=2, cls=MarkovOracle) is None
