"""Filling in blocks from left to right with a network of whole samples.

Shapes: B batch, L tokens, K blocks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.samplers.base import SAMPLERS, OnStep, SamplerTraits, StepState
from fewstep.samplers.inner import InnerConfig, inner_sampler
from fewstep.samplers.walk import Step, Walk, WalkSampler


@SAMPLERS.register("semi_autoregressive")
class SemiAutoregressiveSampler(WalkSampler):
    """Draws one block after the other while later ones stay masked (LLaDA, arXiv 2502.09992).

    An `inner` sampler draws each block and walks from t = 1 to 0 in it; the network is conditioned on the time of the
    block. Steps are divided evenly over the blocks in which a sample has masks, at least one step for each. So with at
    least as many steps as blocks there are at most `steps` evaluations. Every block has the greedy tail. The network
    must be trained on whole samples of the masked process; `block` is for block-autoregressive networks.
    """

    traits: ClassVar[SamplerTraits] = SamplerTraits(
        masks_only=True,
        exact=False,  # as its inner sampler is, and confidence is not
    )

    class Config(InnerConfig):
        type: Literal["semi_autoregressive"] = "semi_autoregressive"
        block_size: int = Field(32, ge=1, description="tokens of a block; the last one may be shorter")
        inner: Annotated[ComponentConfig, From("samplers", leaf=True)] = Field(
            "confidence", validate_default=True, description="sampler of each block; shared settings stand outside it"
        )

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.inner = inner_sampler(self.config, self.opener)

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        return self.inner.guide(denoiser, dataset)

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        layouts, out, index = blocks_to_draw(walk.masks(x), self.config.block_size), x.clone(), 0
        # Samples with different layouts of prompts divide their steps differently; so batches do not matter.
        for layout in layouts.unique(dim=0):
            rows = (layouts == layout).all(1).nonzero()[:, 0]

            def show(state: StepState, rows: Tensor = rows) -> None:
                nonlocal index
                out[rows] = state.x
                if on_step is not None:
                    on_step(StepState(index, state.t, state.s, out.clone()))
                index += 1

            out[rows] = self._draw_blocks(walk.select(rows), x[rows], steps, layout, show)
        return out

    def _draw_blocks(self, walk: Walk, x: Tensor, steps: int, layout: Tensor, show: OnStep) -> Tensor:
        """Clean tokens of samples that have masks in the same blocks (`layout`, BoolTensor [K])."""
        blocks = layout.nonzero()[:, 0].tolist()
        places = torch.arange(x.shape[1], device=x.device) // self.config.block_size
        for block, share in zip(blocks, shares(steps, len(blocks)), strict=True):
            # Only the masks of this block are free; drawn and given tokens, and the masks of later blocks, are held.
            prompt = x.masked_fill(walk.masks(x) & (places == block), -1)
            part = replace(walk, config=self.inner.config, cond=replace(walk.cond, prompt=prompt))
            x = self.inner.run(part, x, share, show)
        return x

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        return self.inner.step(replace(walk, config=self.inner.config), x, step)


def blocks_to_draw(masks: Tensor, size: int) -> Tensor:
    """Blocks of `size` tokens that have a mask (BoolTensor [B, L] -> [B, K])."""
    return torch.stack([block.any(1) for block in masks.split(size, 1)], 1)


def shares(steps: int, blocks: int) -> list[int]:
    """Number of steps for each block: nearly equal, at least one."""
    return [max(1, steps * (block + 1) // blocks - steps * block // blocks) for block in range(blocks)]
