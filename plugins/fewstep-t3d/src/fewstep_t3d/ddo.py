"""Trajectory self-distillation by direct discriminative optimisation (T3D, arXiv 2602.12262).

Shapes: B batch, L tokens, S tokens a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.data.sample_store import Rows, SampleStore
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.objectives.parts.rounds import round_begins, round_of
from fewstep.predictions.base import Prediction
from fewstep.predictions.shaping import likeliest, temperature
from fewstep.processes.base import PROCESSES
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.masks import time_of_masks
from fewstep.runtime.device import send
from fewstep.runtime.digest import weights_digest
from fewstep.runtime.progress import Narrator
from fewstep.runtime.seeding import generator_for
from fewstep.runtime.streams import Randomness, SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep_t3d.losses import ddo_loss, mean_of_sample, path_weights
from fewstep_t3d.trajectories import (
    drawn_shares,
    hidden_by_order,
    number_in_block,
    place_in_block,
    roll_out,
    with_random_tokens,
)

_BATCH = 256
"""Roll-outs drawn at once."""


@OBJECTIVES.register("ddo")
class DirectDiscriminative(Objective):
    """A block model learns its own roll-outs of many steps, so that one step draws a block (T3D, arXiv 2602.12262).

    The teacher rolls out `trajectories` samples and notes in which order it decoded their tokens. The student predicts
    them from states in which the latest (or earliest) tokens of each block are masked. Real sequences are the
    roll-outs, fake ones the reference's own prediction at the same input, with mean log-likelihoods l of the masked
    tokens:

    L = softplus(-b (l(real) - l_ref(real))) + a softplus(b (l(fake) - l_ref(fake))) + lam L_path

    The reference is the teacher role, which becomes the student at the start of each round. L_path is the cross entropy
    of the roll-out, tokens that were decoded early weighted most.
    """

    roles: ClassVar = {
        "teacher": RoleSpec(trained=False, starts_from="teacher", refreshed=True, latents="refuse"),
        "student": RoleSpec(starts_from="teacher"),
    }
    per_token: ClassVar = False
    divides_setup: ClassVar = True

    class Config(ComponentConfig):
        type: Literal["ddo"] = "ddo"
        trajectories: int = Field(4096, ge=1, description="roll-outs that the teacher makes")
        prompt: int | None = Field(
            None, ge=0, description="tokens of data that a roll-out begins with, whole blocks; null: one block"
        )
        rollout: Annotated[ComponentConfig, From("samplers")] = Field(
            {"type": "block", "inner": "confidence", "temperature": 0.1},  # type: ignore[assignment]
            validate_default=True,
            description="sampler of the roll-outs, one that goes block by block",
        )
        rollout_steps: int | None = Field(None, ge=1, description="its steps a block; null: one for each token")
        store: str | None = Field(None, description="folder of stored roll-outs, filled if empty; null: the run's")
        order: Literal["latest", "earliest"] = Field(
            "latest", description="tokens to mask: those decoded last, as in a sampler's states, or first"
        )
        shares: tuple[float, ...] = Field((1.0, 0.75, 0.5, 0.25), description="shares of a block that are masked")
        share_power: float = Field(8.0, ge=0, description="a share is drawn in proportion to this power of it")
        random_tokens: float = Field(
            0.1, ge=0, lt=1, description="share of masked tokens that become random ones instead, at least one; 0: none"
        )
        b: float = Field(0.1, gt=0, description="scale of log-likelihood ratios")
        a: float = Field(0.5, ge=0, description="weight of fake sequences")
        ddo: float = Field(1.0, ge=0, description="weight of both terms of ratios; 0 leaves the path loss alone")
        lam: float = Field(0.2, ge=0, description="weight of the path loss")
        path_tokens: int = Field(4, ge=1, description="tokens of a block by which levels of the path loss grow")
        path_visible: bool = Field(False, description="whether tokens that the network sees are in the path loss too")
        fake_temperature: float = Field(
            0.0, ge=0, description="temperature of the reference's fake tokens; 0 takes the likeliest"
        )
        rounds: int = Field(3, ge=1, description="rounds of equal length; at the start of each the student is copied")

        @field_validator("shares")
        @classmethod
        def _shares_of_blocks(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
            if not shares or not all(0 < share <= 1 for share in shares):
                raise ValueError("takes shares above 0 and up to 1")
            return shares

        @field_validator("rollout")
        @classmethod
        def _goes_block_by_block(cls, rollout: ComponentConfig) -> ComponentConfig:
            if not SAMPLERS.get(rollout.type).cls.traits.gives_context:
                raise ValueError(f"'{rollout.type}' does not go block by block; block does")
            return rollout

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not BACKBONES.get(recipe.backbone.type).cls.uses_context:
                yield "type", f"backbone '{recipe.backbone.type}' has no blocks to roll out; use block_transformer"
            if not PROCESSES.get(recipe.process.type).cls.carry_over:
                yield "type", f"the {recipe.process.type} process has no masks, whose order is learned; use masked"
            if recipe.label_input is not None:
                yield "type", "roll-outs are drawn without labels; remove label_input"
            if self.ddo == self.lam == 0:
                yield "lam", "without ratios (ddo) and path loss there is nothing to learn; set one of them above 0"
            size, length = getattr(recipe.backbone, "block_size", None), getattr(recipe.data, "length", None)
            if size is not None and (self.prompt or 0) % size:
                yield "prompt", f"{self.prompt} tokens are no whole number of blocks of {size}"
            prompt = size if self.prompt is None else self.prompt
            if prompt is not None and length is not None and prompt >= length:
                yield (
                    "prompt",
                    f"a prompt of {prompt} tokens leaves nothing of a sample of {length}; take a shorter one",
                )

    config: Config

    def usual_steps(self) -> int | None:
        return 1

    def setup(self, ctx: StepContext) -> None:
        c, teacher = self.config, ctx.denoiser("teacher")
        student, size = ctx.denoiser("student"), teacher.block_size
        if size is None or size != student.block_size:
            raise UserError(
                f"teacher: has blocks of {size} tokens, and the student of {student.block_size}; use the same"
            )
        self.prompt = size if c.prompt is None else c.prompt
        if self.prompt % size or self.prompt >= teacher.length:
            raise UserError(f"objective.prompt: {self.prompt} tokens are not some of the blocks of {size} of a sample")
        if ctx.dataset is None or (c.store is None and ctx.folder is None):
            raise ValueError(
                "roll-outs need data for their prompts and a folder: set `dataset` and `folder` of the context"
            )
        folder = Path(c.store) if c.store is not None else ctx.folder / "trajectories"  # type: ignore[operator]
        source = ctx.generators["sample"]
        assert source is not None, "roll-outs need a seed"
        facts = {
            "teacher": weights_digest(teacher),
            "data": ctx.dataset.fingerprint,
            "sampler": c.rollout.model_dump(mode="json"),
            "steps": c.rollout_steps or size,
            "prompt": self.prompt,
        }
        self.store = SampleStore(folder, c.trajectories, facts, source.initial_seed(), unit="trajectories")
        self.position, self._taken = 0, 0
        progress = Narrator("teacher", unit="roll-outs") if ctx.ranks.first else None
        evaluations = self.store.fill(lambda count, seed: self._draw(count, seed, ctx), progress, ranks=ctx.ranks)
        teacher.evaluated = evaluations if ctx.ranks.first else 0  # the log has the sum of all ranks

    @torch.no_grad()
    def _draw(self, count: int, seed: int, ctx: StepContext) -> Rows:
        """Roll-outs from prompts of the data."""
        c, teacher, before = self.config, ctx.denoiser("teacher"), ctx.roles["teacher"].evaluated
        assert ctx.dataset is not None
        assert teacher.block_size is not None
        train, sampler = ctx.dataset.train, SAMPLERS.build(c.rollout)
        chosen = torch.randint(train.shape[0], (count,), generator=generator_for(seed, "prompts"))
        tokens, orders = [], []
        for first in range(0, count, _BATCH):
            numbers = range(first, min(first + _BATCH, count))
            prompt = torch.full((len(numbers), teacher.length), -1, device=ctx.device)
            prompt[:, : self.prompt] = send(train[chosen[first : numbers.stop]].long(), ctx.device)[:, : self.prompt]
            streams = SampleStreams(seed, numbers, device=ctx.device)
            steps = c.rollout_steps or teacher.block_size
            x, order = roll_out(sampler, teacher, prompt, steps=steps, generator=streams)
            tokens.append(x)
            orders.append(order)
        return Rows({"tokens": torch.cat(tokens), "order": torch.cat(orders)}, teacher.evaluated - before)

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        self._taken = batch.size if ctx.whole is None else ctx.whole
        rows = self.store.take(self.position + ctx.place, batch.size)
        return self.loss_of(send(rows["tokens"], ctx.device), send(rows["order"], ctx.device), ctx)

    def loss_of(self, x: Tensor, order: Tensor, ctx: StepContext) -> LossOutput:
        """The loss on roll-outs.

        Args:
            x: tokens, LongTensor [B, L].
            order: step at which each was decoded, 0 for the prompt (LongTensor [B, L]).
        """
        c, (student, reference) = self.config, (ctx.denoiser(role) for role in ("student", "teacher"))
        process, size = ctx.process, student.block_size
        assert isinstance(process, MaskedProcess)
        assert size is not None
        samples = ctx.as_batch(x)
        decoded = (order > 0) if samples.text is None else (order > 0) & samples.text
        share = drawn_shares(c.shares, c.share_power, len(x), ctx.generators["time"], ctx.device)
        hidden = hidden_by_order(order, size, decoded, share, earliest=c.order == "earliest")
        z = x.masked_fill(hidden, process.mask_id)
        if c.random_tokens:
            z = with_random_tokens(z, hidden, c.random_tokens, process.vocab_size, generator=ctx.generators["noise"])
        t = time_of_masks(process, number_in_block(hidden, size) / size).float()
        everywhere = bool(c.random_tokens) or c.path_visible
        cond = replace(samples.cond, context=x, everywhere=everywhere)

        prediction = student(z, t, cond=cond)
        nll = prediction.nll(x, decoded if c.path_visible else hidden)
        path = path_weights(
            place_in_block(order, size, decoded), size, c.path_tokens, decoded if c.path_visible else hidden
        )
        path_loss = (nll * path).sum(1).mean()
        if c.ddo == 0:
            return LossOutput(c.lam * path_loss, {"path": path_loss.detach()})
        with torch.no_grad():
            before = reference(z, t, cond=cond)
            fake = fakes(before, hidden, c.fake_temperature, ctx.generators["sample"])
            marks = [-mean_of_sample(before.nll(ids, hidden), hidden) for ids in (x, fake)]
        real = -mean_of_sample(nll, hidden)
        made = -mean_of_sample(prediction.nll(fake, hidden), hidden)
        ratios = ddo_loss(real, marks[0], made, marks[1], b=c.b, a=c.a).mean()
        metrics: dict[str, Any] = {
            "path": path_loss.detach(),
            "ratios": ratios.detach(),
            "fakes_as_real": (((fake == x) & hidden).sum(), hidden.sum()),
            "round": torch.tensor(round_of(c.rounds, ctx)),
        }
        return LossOutput(c.ddo * ratios + c.lam * path_loss, metrics)

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        self.position += self._taken
        if round_begins(self.config.rounds, ctx):
            ctx.roles["teacher"].start_from(ctx.roles["student"])

    def state_dict(self) -> dict[str, object]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def fakes(reference: Prediction, where: Tensor, heat: float, generator: Randomness) -> Tensor:
    """Tokens of the reference at `where` (LongTensor [B, L]): the likeliest ones, or draws at a temperature."""
    return reference.shaped(temperature(heat) if heat else likeliest).sample(generator=generator, where=where)
