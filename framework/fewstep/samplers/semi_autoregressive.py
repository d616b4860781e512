"""Filling in blocks from left to right with a network that sees whole samples.

Shapes: B batch, L tokens, K blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.samplers.base import SAMPLERS, OnStep, StepState
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler

_SHARED = tuple(name for name in WalkConfig.model_fields if name != "type")
"""Settings of every sampler that walks."""


@SAMPLERS.register("semi_autoregressive")
class SemiAutoregressiveSampler(WalkSampler):
    """Draws one block after the other while later ones stay masked (LLaDA, arXiv 2502.09992).

    Each block is drawn by an `inner` sampler that walks from t = 1 to 0 in it, and the network is told the time of the
    block. Steps are divided evenly over the blocks in which a sample has anything to draw, at least one for each, so
    that no more than `steps` evaluations are taken where there are as many steps as blocks. The greedy tail is that of
    every block. The network must know the masked process on whole samples; `block_ancestral` is for those that go block
    by block themselves.
    """

    masks_only: ClassVar[bool] = True
    exact: ClassVar[bool] = False  # as its inner sampler is, and confidence is not

    class Config(WalkConfig):
        type: Literal["semi_autoregressive"] = "semi_autoregressive"
        block_size: int = Field(32, ge=1, description="tokens of a block; the last one may be shorter")
        inner: Annotated[ComponentConfig, From("samplers", leaf=True)] = Field(
            "confidence", validate_default=True, description="sampler of each block; what all share is set outside it"
        )

        @field_validator("inner")
        @classmethod
        def _walks_whole_samples(cls, inner: ComponentConfig) -> ComponentConfig:
            sampler = SAMPLERS.get(inner.type).cls
            unfit = sampler.gives_context or sampler.only_steps or sampler is SemiAutoregressiveSampler
            if not issubclass(sampler, WalkSampler) or unfit:
                raise ValueError(f"'{inner.type}' cannot draw a block of a larger sample; confidence can, say")
            usual = WalkConfig(type=inner.type)
            for name in _SHARED:
                if getattr(inner, name) != getattr(usual, name):
                    raise ValueError(f"set {name} beside inner, not in it: it holds for every block")
            return inner

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            yield from super().check_recipe(recipe)
            merged = self.inner.model_copy(update={"grid": self.grid})
            found = merged.check_recipe(recipe)
            yield from (problem for problem in found if problem[0] == "grid")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        shared = {name: getattr(self.config, name) for name in _SHARED}
        inner = SAMPLERS.build(self.config.inner.model_copy(update=shared), opener=self.opener)
        assert isinstance(inner, WalkSampler)
        self.inner = inner

    def guide(self, denoiser: Denoiser, dataset: Dataset) -> Denoiser:
        return self.inner.guide(denoiser, dataset)

    def run(self, walk: Walk, x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
        wanted, out, shown = blocks_to_draw(walk.masks(x), self.config.block_size), x.clone(), 0
        # Samples whose prompts lie differently divide their steps differently; a sample is alike in any batch.
        for layout in wanted.unique(dim=0):
            rows = (wanted == layout).all(1)

            def show(state: StepState, rows: Tensor = rows) -> None:
                nonlocal shown
                out[rows] = state.x
                if on_step is not None:
                    on_step(StepState(shown, state.t, state.s, out.clone()))
                shown += 1

            out[rows] = self._draw_blocks(walk.select(rows), x[rows], steps, layout, show)
        return out

    def _draw_blocks(self, walk: Walk, x: Tensor, steps: int, layout: Tensor, show: OnStep) -> Tensor:
        """Clean tokens of samples that have something to draw in the same blocks (`layout`, BoolTensor [K])."""
        blocks = layout.nonzero()[:, 0].tolist()
        places = torch.arange(x.shape[1], device=x.device) // self.config.block_size
        for block, share in zip(blocks, shares(steps, len(blocks)), strict=True):
            # All else is held as it is: what is drawn or given, and the masks of later blocks.
            held = x.masked_fill(walk.masks(x) & (places == block), -1)
            part = replace(walk, config=self.inner.config, cond=replace(walk.cond, given=held))
            x = self.inner.run(part, x, share, show)
        return x

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        return self.inner.step(replace(walk, config=self.inner.config), x, step)


def blocks_to_draw(masks: Tensor, size: int) -> Tensor:
    """Which blocks of so many tokens have a mask (BoolTensor [B, L] -> [B, K])."""
    return torch.stack([block.any(1) for block in masks.split(size, 1)], 1)


def shares(steps: int, blocks: int) -> list[int]:
    """Steps for each block: as equal as can be, at least one."""
    return [max(1, steps * (block + 1) // blocks - steps * block // blocks) for block in range(blocks)]
