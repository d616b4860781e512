"""The weighted denoising loss of an exact denoiser is the exact negative log-likelihood, for every schedule."""

from __future__ import annotations

import pytest
import torch

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.processes.base import PROCESSES
from fewstep.runtime.seeding import generator_for
from fewstep.schedules.base import SCHEDULES


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=4, length=6, successors=2, smoothing=0.1, size=6000))


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_the_elbo_of_the_masked_oracle_is_tight(schedule: str, source: Markov) -> None:
    """Masked diffusion is an average over orders of generation, and the chain rule holds in each of them."""
    process = PROCESSES.build({"type": "masked", "schedule": schedule}, vocab_size=4)
    streams = {name: generator_for(0, name) for name in ("time", "noise", "sample")}
    ctx = StepContext({"student": exact_denoiser(source, process)}, process, streams, torch.device("cpu"))
    objective = Denoising(Denoising.Config(weighting="elbo", min_time=0.0))
    (phase,) = objective.phases()
    losses = torch.stack([objective.loss(phase, Batch(source.train), ctx).loss for _ in range(4)])
    exact = -source.log_likelihood(source.train).mean() / 6
    assert losses.mean().item() == pytest.approx(exact.item(), rel=0.02)


def test_weights_matter(source: Markov) -> None:
    """Without its weight the loss is another number, so that the test above can fail."""
    process = PROCESSES.build("masked", vocab_size=4)
    streams = {name: generator_for(0, name) for name in ("time", "noise", "sample")}
    ctx = StepContext({"student": exact_denoiser(source, process)}, process, streams, torch.device("cpu"))
    objective = Denoising(Denoising.Config(weighting="constant"))
    loss = objective.loss(objective.phases()[0], Batch(source.train), ctx).loss
    exact = -source.log_likelihood(source.train).mean() / 6
    assert loss.item() < 0.8 * exact.item()
