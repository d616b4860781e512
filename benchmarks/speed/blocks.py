"""An evaluation of a block sampler over its share of a forward pass.

The forward pass is the trunk's over L tokens. An evaluation computes S of them, so its share is S / L. Reads of
finished blocks count as evaluations.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from games import Size, network
from rows import Row

from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS

SIZES = ((Size(256, 512, 1, 256, 4), 16), (Size(256, 512, 8, 256, 4), 16))
"""Sizes and tokens a block."""
QUICK = ((Size(256, 128, 4, 128, 2), 16),)
GOAL = 1.3
STEPS = 4


@torch.no_grad()
def ratios(size: Size, block: int, rounds: int) -> list[float]:
    process = PROCESSES.build("masked", vocab_size=size.vocab)
    blocks = network(size, process, "block_transformer", block_size=block).eval()
    whole = network(size, process, "transformer").eval()
    sampler = SAMPLERS.build("block_ancestral")
    x, t = torch.randint(size.vocab, (size.batch, size.length)), torch.full((size.batch,), 0.5)
    values = []
    for number in range(rounds + 1):
        forwards = []
        for _ in range(5):
            begin = time.process_time()
            whole.backbone.head(whole.backbone(x, t))
            forwards.append(time.process_time() - begin)
        begin = time.process_time()
        nfe = sampler.sample(blocks, size.batch, steps=STEPS, generator=SampleStreams(0, range(size.batch))).nfe
        drawing = time.process_time() - begin
        if number:
            values.append(drawing / nfe / (statistics.median(forwards) * block / size.length))
    return values


def measure(quick: bool) -> Iterator[Row]:
    """Ratios of `block_ancestral`."""
    for size, block in QUICK if quick else SIZES:
        values = ratios(size, block, 5 if quick else 7)
        yield Row.of("blocks", f"evaluation / share of a forward, blocks of {block}, {size}", values, goal=GOAL)
