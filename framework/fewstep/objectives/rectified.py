"""Rectification of the coupling of noise and data (ReDi, arXiv 2507.15897).

Shapes: B batch, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.data.sample_store import Rows, SampleStore
from fewstep.denoisers.base import NOTHING
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.processes.base import PROCESSES, per_token
from fewstep.runtime.device import send
from fewstep.runtime.digest import weights_digest
from fewstep.runtime.progress import Narrator
from fewstep.runtime.streams import Randomness, SampleStreams, uniform
from fewstep.samplers.flow import FlowSampler
from fewstep.samplers.walk import Walk

_BATCH = 512
"""Pairs drawn at once."""
_REHEARSED = 2
"""Steps of a teacher that a plan follows; all others are like the first."""


@OBJECTIVES.register("rectified")
class Rectified(Objective):
    """Retrains on pairs of noise and the teacher's sample from it.

    The teacher takes `teacher_steps` steps of `flow` from each of `pairs` draws of noise. The student learns x from
    tokens that are x with probability alpha_t and else the noise of their own pair, by cross entropy, mean over tokens.
    A step that draws tokens independently errs by their correlation, and data given noise are less correlated than data
    alone. Each round, with the last student as the teacher, reduces this correlation further (arXiv 2507.15897,
    conditional total correlation). Pairs lie in the run's folder, or in `store`, which several runs may share.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", latents="draw"),
        "student": RoleSpec(starts_from="teacher", adapters=True),
    }
    sampler: ClassVar = "flow"
    divides_setup: ClassVar = True

    class Config(ComponentConfig):
        type: Literal["rectified"] = "rectified"
        pairs: int = Field(50_000, ge=1, description="pairs of noise and sample that the teacher makes")
        teacher_steps: int = Field(64, ge=1, description="steps of the teacher for each pair")
        store: str | None = Field(None, description="folder of stored pairs, filled if it is empty; null: the run's")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if PROCESSES.get(recipe.process.type).cls.carry_over:
                yield (
                    "type",
                    f"noise of the {recipe.process.type} process is always the same; pairs tell nothing new there",
                )
            if recipe.label_input is not None:
                yield "type", "pairs are drawn without labels; remove label_input"

    config: Config

    def setup(self, ctx: StepContext) -> None:
        c, teacher = self.config, ctx.roles["teacher"]
        if c.store is not None:
            folder = Path(c.store)
        elif ctx.folder is not None:
            folder = ctx.folder / "pairs"
        else:
            raise ValueError("pairs need a folder: set `folder` of the context, or `store` of the objective")
        facts = {"teacher": weights_digest(teacher), "steps": c.teacher_steps, "length": teacher.length}
        source = ctx.generators["sample"]
        assert source is not None, "pairs need a seed"
        self.store = SampleStore(folder, c.pairs, facts, source.initial_seed(), unit="pairs")
        self.position, self._taken = 0, 0
        progress = Narrator("teacher", unit="pairs") if ctx.ranks.first else None

        def draw(count: int, seed: int) -> Rows:
            return self._draw(count, seed, c.teacher_steps, ctx)

        evaluations = self.store.fill(draw, progress, ranks=ctx.ranks)
        teacher.evaluated = evaluations if ctx.ranks.first else 0  # the log has the sum of all ranks

    def rehearse(self, ctx: StepContext) -> float:
        """The first file of pairs, by fewer steps of the teacher; it stays in memory as if it had been read."""
        c = self.config
        self.store, self.position = SampleStore(Path(), c.pairs, {}, 0, unit="pairs"), 0
        self.store.hold(self._draw(self.store.shard, 0, _REHEARSED, ctx))
        return self.store.shards * c.teacher_steps / _REHEARSED

    @torch.no_grad()
    def _draw(self, count: int, seed: int, steps: int, ctx: StepContext) -> Rows:
        """Noise, and the teacher's samples from it."""
        teacher, before = ctx.denoiser("teacher"), ctx.roles["teacher"].evaluated
        sampler = FlowSampler(FlowSampler.Config())
        starts, data = [], []
        for first in range(0, count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            walk = Walk(teacher, sampler.config, NOTHING, SampleStreams(seed, numbers, device=ctx.device))
            starts.append(walk.start(len(numbers), teacher.length))
            data.append(sampler.run(walk, starts[-1], steps))
        return Rows({"start": torch.cat(starts), "data": torch.cat(data)}, teacher.evaluated - before)

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        self._taken = batch.size if ctx.whole is None else ctx.whole
        pairs = self.store.take(self.position + ctx.place, batch.size)
        start, x = send(pairs["start"], ctx.device), send(pairs["data"], ctx.device)
        t = ctx.sample_time(batch.size, antithetic=True)
        z_t = interpolate(x, start, ctx.process.schedule.alpha(t), ctx.generators["noise"])
        nll = ctx.roles["student"](z_t, t, torch.zeros_like(t), generator=ctx.generators["noise"]).nll(x)
        noised, samples = z_t != x, ctx.as_batch(x)
        loss = ctx.mean(nll, batch=samples)
        metric = ((nll.detach() * noised).sum(), samples.tokens(noised))
        return LossOutput(loss, {"nll_noised": metric})

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        self.position += self._taken

    def state_dict(self) -> dict[str, object]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def interpolate(x: Tensor, start: Tensor, alpha: Tensor, generator: Randomness) -> Tensor:
    """z_t: each token is x with probability alpha_t, else its own start; all ids [B, L], alpha [B]."""
    u = uniform(x.shape, generator, device=x.device, dtype=torch.float32)
    return torch.where(u < per_token(alpha), x, start)
