"""LoMDM: masked diffusion that learns the order of its positions (arXiv 2602.02112)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.processes.base import discrete
from fewstep_orders.exponents import ExponentClock, Family
from fewstep_orders.loss import order_loss
from fewstep_orders.network import OrderedDenoiser
from fewstep_orders.settings import OrderConfig


@OBJECTIVES.register("learned_order")
class LearnedOrder(Objective):
    """A forward head orders the noising by the clean sample, and a reverse head learns to follow without seeing it.

    Position i is masked with probability t^e_i. Its exponent is e_i = c1 + c2 (sigmoid(g_i) - mean_j sigmoid(g_j)) of a
    head's scores g (LoMDM, arXiv 2602.02112). The loss bounds -log p(x), for every order; a network that knows all
    conditionals exactly gains nothing by one. Each step reads the clean tokens once and two noised states of them.
    """

    roles: ClassVar = {"student": RoleSpec(network=OrderedDenoiser)}
    likelihood = True
    per_token = False

    class Config(OrderConfig):
        type: Literal["learned_order"] = "learned_order"
        mean_exponent: float = Field(0.7, gt=0, le=10, description="c1: mean of the exponents over positions")
        spread: float = Field(
            0.65,
            ge=0,
            validate_default=True,
            description="c2: exponents lie within c1 - c2 and c1 + c2; 0 learns no order",
        )

        @field_validator("spread")
        @classmethod
        def _exponents_stay_positive(cls, spread: float, info: ValidationInfo) -> float:
            mean = info.data.get("mean_exponent")
            if mean is not None and spread >= mean:
                raise ValueError(f"spread ({spread}) must be below mean_exponent ({mean}): exponents are positive")
            return spread

        def family(self) -> Family:
            return Family(self.mean_exponent, self.spread)

    config: OrderConfig

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        c, student, process = self.config, ctx.roles["student"], discrete(ctx.process)
        assert isinstance(student, OrderedDenoiser)
        t = c.min_time + (1 - c.min_time) * ctx.sample_time(batch.size, antithetic=True)
        cond = batch.cond.with_labels_dropped(c.label_drop, ctx.generators["noise"])
        forward = student.forward_exponents(batch.x0, cond)
        twice = ctx.as_batch(batch.x0.repeat(2, 1), cond.repeat(2))
        times = ExponentClock(forward.detach())(t).repeat(2, 1)
        z = process.corrupt(twice.x0, times, generator=ctx.generators["noise"]).x_t
        prediction = student(z, t.repeat(2), cond=twice.cond, generator=ctx.generators["noise"])
        assert isinstance(prediction.clock, ExponentClock)
        out = order_loss(
            process,
            forward,
            prediction.clock.exponents,
            prediction.nll(twice.x0),
            prediction.where,
            t,
            lambda values: ctx.mean(values, batch=twice),
        )
        spread = forward.detach().std(1, correction=0).mean()
        return LossOutput(out.loss, {"mismatch": twice.mean(out.mismatch), "exponent_spread": spread})
