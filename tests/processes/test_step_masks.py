"""Places of a walk that are drawn before any network is called: the same states, and nothing left to wait for."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.draws import refusals
from fewstep.predictions.positions import covers, positions
from fewstep.processes.base import PROCESSES, discrete, find_masks
from fewstep.runtime.streams import SampleStreams, uniform
from fewstep.testing.synchronisations import Synchronisations

V, SHAPE = 7, (32, 12)


def network(process: str) -> NetworkDenoiser:
    torch.manual_seed(0)
    states = PROCESSES.build(process, vocab_size=V)
    config = {"type": "transformer", "width": 16, "depth": 1, "heads": 2}
    backbone = BACKBONES.build(config, tokens=TokenSpace(states.num_states, V, SHAPE[1]))
    torch.nn.init.normal_(backbone.head.weight)
    return NetworkDenoiser(backbone, states).eval()


@torch.no_grad()
@pytest.mark.parametrize("at", [False, True], ids=["step_back", "step_at"])
@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_a_step_with_places_drawn_before_is_the_step(name: str, at: bool) -> None:
    denoiser, process = network(name), discrete(PROCESSES.build(name, vocab_size=V))
    x0 = torch.randint(V, SHAPE, generator=torch.Generator().manual_seed(1))
    t, s = torch.full(SHAPE[:1], 0.8), torch.full(SHAPE[:1], 0.5)
    z_t = process.corrupt(x0, t, generator=SampleStreams(0, range(SHAPE[0]), purpose="noise")).x_t
    states = []
    for before in (False, True):
        streams = SampleStreams(0, range(SHAPE[0]))
        levels = uniform(SHAPE, streams, device="cpu") if at else None
        (masks,) = process.draw_masks(z_t, (t, s), generator=streams) if before else (None,)
        prediction = denoiser(z_t, t)
        if levels is None:
            states.append(process.step_back(z_t, prediction, t, s, generator=streams, masks=masks))
        else:
            states.append(process.step_at(z_t, prediction, levels, t, s, generator=streams, masks=masks))
    assert torch.equal(*states)
    assert not torch.equal(states[0], z_t)


@torch.no_grad()
def test_a_walk_waits_once() -> None:
    denoiser, process = network("masked"), discrete(PROCESSES.build("masked", vocab_size=V))
    streams, times = SampleStreams(0, range(SHAPE[0])), [torch.full(SHAPE[:1], t) for t in (1.0, 0.7, 0.4, 0.0)]
    uniform(SHAPE, streams, device="cpu")  # the first call may check what it is made by
    with refusals(), Synchronisations() as seen:
        z = process.prior(SHAPE, device="cpu", generator=streams)
        masked = process.to_predict(z)
        steps = process.draw_masks(z, times, generator=streams)
        find_masks(process, [z], steps)
        left = [masked]
        for (now, then), masks in zip(pairwise(times), steps, strict=True):
            z = process.step_back(z, denoiser(z, now), now, then, generator=streams, masks=masks)
            left.append(process.to_predict(z))
            assert all(covers(before, left[-1]) for before in left)
    assert seen.counts == {"tolist": 1}
    assert all(torch.equal(process.to_predict(z.clone()), where) for where in left[-1:])
    assert not left[-1].any()
    counts = [positions(where).count for where in left]
    assert counts == sorted(counts, reverse=True)
