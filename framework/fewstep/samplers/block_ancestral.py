"""Ancestral sampling of one block after another.

Shapes: L tokens, S tokens a block.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness
from fewstep.samplers.ancestral import AncestralSampler
from fewstep.samplers.base import SAMPLERS, OnStep, SamplerTraits, Samples
from fewstep.samplers.in_blocks import draw_in_blocks


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
        return draw_in_blocks(self, denoiser, count, steps=steps, generator=generator, cond=cond, on_step=on_step)
