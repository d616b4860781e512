"""Blocks of any walk, for block-autoregressive networks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from fewstep.core.component import ComponentConfig
from fewstep.denoisers.base import NOTHING, Denoiser
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness
from fewstep.samplers.base import SAMPLERS, OnStep, Sampler, SamplerTraits, Samples
from fewstep.samplers.in_blocks import draw_in_blocks
from fewstep.samplers.inner import InnerConfig, inner_sampler
from fewstep.samplers.walk import WalkSampler


@SAMPLERS.register("block")
class BlockSampler(Sampler):
    """Draws each block by an `inner` sampler, given the blocks before it (BD3-LM, arXiv 2503.09573; SDAR).

    `steps` is the number of steps for each block. A finished block is read once, which counts as an evaluation; nothing
    reads the last one. An inner sampler that evaluates only samples with masks left skips blocks that a prompt fills.
    With `inner: ancestral` it draws the samples of `block_ancestral`.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(
        exact=False,  # as its inner sampler is
        gives_context=True,
    )

    class Config(InnerConfig):
        type: Literal["block"] = "block"

        @field_validator("inner")
        @classmethod
        def _asks_one_network(cls, inner: ComponentConfig) -> ComponentConfig:
            if SAMPLERS.get(inner.type).cls.guide is not WalkSampler.guide:
                raise ValueError(f"'{inner.type}' asks a second network, which has read no blocks; ancestral asks one")
            return inner

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.inner = inner_sampler(self.config, self.opener)

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
        self.check_clock(denoiser)
        return draw_in_blocks(self.inner, denoiser, count, steps=steps, generator=generator, cond=cond, on_step=on_step)
