"""A sampler's step over the backbone's forward pass (trunk, and head at every token) on the same batch.

Networks are untrained, since time does not depend on the weights. An evaluation of part of the batch counts as that
part. Each draw is compared with forward passes immediately before and after it. Below 1 the head is computed only at
tokens that are drawn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from games import Size, network
from rows import Row

from fewstep.denoisers.network import NetworkDenoiser
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler

NEEDS_SETTINGS = {"semi_autoregressive": {"block_size": 32}}
SIZES = {Size(256, 256, 4, 256, 6): 16, Size(50_257, 128, 1, 768, 12): 6}
"""Sizes and the number of steps of a draw."""
QUICK = {Size(256, 64, 4, 128, 2): 8}
QUICK_SAMPLERS = ("ancestral", "confidence", "remdm", "analytic")
GOAL = 1.05


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.no_grad()
def ratios(model: NetworkDenoiser, sampler: Sampler, size: Size, steps: int, rounds: int) -> list[float]:
    """Time of an evaluation while sampling over that of a forward pass, in each round."""
    x = model.process.prior((size.batch, size.length), device=model.device, generator=None)
    t = torch.full((size.batch,), 0.5, device=model.device)
    nfe = 0.0

    def forward() -> None:
        model.backbone.head(model.backbone(x, t))

    def draw() -> None:
        nonlocal nfe
        streams = SampleStreams(0, range(size.batch))
        nfe = sampler.sample(model, size.batch, steps=sampler.traits.only_steps or steps, generator=streams).nfe

    forward()
    draw()
    values = []
    for _ in range(rounds):
        before = [seconds(forward) for _ in range(3)]
        sampling = seconds(draw)
        after = [seconds(forward) for _ in range(3)]
        values.append(sampling / nfe / statistics.median(before + after))
    return values


def measure(quick: bool) -> Iterator[Row]:
    """Ratios of all samplers that draw whole sequences, on both processes."""
    for size, steps in (QUICK if quick else SIZES).items():
        for process in ("masked", "uniform"):
            model = network(size, PROCESSES.build(process, vocab_size=size.vocab), "transformer").eval()
            for name in QUICK_SAMPLERS if quick else SAMPLERS.names():
                traits = SAMPLERS.get(name).cls.traits
                if traits.gives_context or (traits.masks_only and process != "masked"):
                    continue
                sampler = SAMPLERS.build({"type": name, **NEEDS_SETTINGS.get(name, {})})
                rounds = 5 if quick or size.vocab < 1000 else 3
                values = ratios(model, sampler, size, steps, rounds)
                yield Row.of("sampling", f"step / forward, {name}, {process}, {size}", values, goal=GOAL)
