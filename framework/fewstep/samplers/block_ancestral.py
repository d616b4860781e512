"""Ancestral sampling of one block after another.

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch

from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.predictions.condition import Condition, Prefix
from fewstep.predictions.draws import refused_at_end
from fewstep.runtime.streams import Randomness
from fewstep.samplers.ancestral import AncestralSampler
from fewstep.samplers.base import SAMPLERS, OnStep, SamplerTraits, Samples, StepState
from fewstep.samplers.walk import Walk


@SAMPLERS.register("block_ancestral")
class BlockAncestralSampler(AncestralSampler):
    """Draws each block as `ancestral` draws a sample, given the blocks before it (BD3-LM, arXiv 2503.09573).

    `steps` is the number of steps for each block. A finished block is read once, and its keys and values are stored for
    later blocks. Reads count as network evaluations, so NFE = blocks x steps + blocks - 1 (nothing reads the last
    block). An evaluation computes S tokens, not L, so `passes` is NFE / blocks.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(gives_context=True, follows_clock=True)

    class Config(AncestralSampler.Config):
        type: Literal["block_ancestral"] = "block_ancestral"  # type: ignore[assignment]

    config: Config

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        count: int,
        *,
        steps: int,
        generator: Randomness,
        cond: Condition = NOTHING,
        on_step: OnStep | None = None,
    ) -> Samples:
        size, before = denoiser.block_size, (denoiser.evaluated, denoiser.computed)
        if size is None:
            raise ValueError("block_ancestral samples denoisers that go block by block, and this one does not")
        x = Walk(denoiser, self.config, cond, generator).start(count, denoiser.length)
        prefix = Prefix(x[:, :0])
        for block, first in enumerate(range(0, denoiser.length, size)):
            part = slice(first, first + size)

            def show(state: StepState, block: int = block, part: slice = part) -> None:
                if on_step is not None:
                    sample = x.clone()  # later blocks appear as the noise that they start from
                    sample[:, part] = state.x
                    on_step(StepState(block * steps + state.index, state.t, state.s, sample))

            prompt = None if cond.prompt is None else cond.prompt[:, part]
            walk = Walk(denoiser, self.config, replace(cond, prefix=prefix, prompt=prompt), generator)
            with refused_at_end():
                x[:, part] = self.run(walk, x[:, part], steps, show)
            if first + size < denoiser.length:
                prefix = denoiser.read(prefix, x[:, part])
        return Samples.counted(x, denoiser, before)
