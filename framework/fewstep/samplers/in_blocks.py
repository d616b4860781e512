"""Drawing one block after another, each by a walk given the blocks before it.

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.condition import Condition, Prefix
from fewstep.predictions.draws import refused_at_end
from fewstep.runtime.streams import Randomness
from fewstep.samplers.base import OnStep, Samples, StepState
from fewstep.samplers.walk import Walk, WalkSampler


@torch.no_grad()
def draw_in_blocks(
    sampler: WalkSampler,
    denoiser: Denoiser,
    count: int,
    *,
    steps: int,
    generator: Randomness,
    cond: Condition,
    on_step: OnStep | None = None,
) -> Samples:
    """Draw `count` samples block by block; `sampler` walks from noise to data in each, in `steps` steps.

    `on_step` is called with states of whole samples. Step i of block b has the index b x steps + i.

    Raises:
        ValueError: the denoiser does not go block by block.
    """
    size, before = denoiser.block_size, (denoiser.evaluated, denoiser.computed)
    if size is None:
        raise ValueError("this sampler draws block by block, and the denoiser predicts whole samples")
    walk = Walk(denoiser, sampler.config, cond, generator)
    x = sampler.start(walk, count, denoiser.length)
    prefix = Prefix(x[:, :0])
    for block, first in enumerate(range(0, denoiser.length, size)):
        part = slice(first, first + size)

        def show(state: StepState, block: int = block, part: slice = part) -> None:
            if on_step is not None:
                sample = x.clone()  # later blocks appear as the noise that they start from
                sample[:, part] = state.x
                on_step(StepState(block * steps + state.index, state.t, state.s, sample))

        prompt = None if cond.prompt is None else cond.prompt[:, part]
        walk = Walk(denoiser, sampler.config, replace(cond, prefix=prefix, prompt=prompt), generator)
        with refused_at_end():
            x[:, part] = sampler.run(walk, x[:, part], steps, show)
        if first + size < denoiser.length:
            prefix = denoiser.read(prefix, x[:, part])
    return Samples.counted(x, denoiser, before)
