"""Tweedie tau-leaping: one draw from the exact row of a step.

Shapes: B batch, L tokens, V vocabulary, S states, N rows.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep.predictions.draws import pick
from fewstep.processes.base import DiscreteProcess, posterior_rows
from fewstep.runtime.streams import uniform
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.walk import Step, Walk, WalkConfig, WalkSampler


@SAMPLERS.register("analytic")
class AnalyticSampler(WalkSampler):
    """Draws z_s in one draw from its exact row (Tweedie tau-leaping, SEDD, arXiv 2310.16834).

    p(z_s = i | z_t = z) = [exp(-dsigma Q) r](i) exp(dsigma Q)(z, i), in float64.
    r(y) = E_{x ~ p}[q_t(y | x) / q_t(z | x)] and Q is the forward generator. As r comes from a prediction of
    x, the row is E_{x ~ p}[q(z_s | z_t, x)]. So it has no negative entries, and draws from it follow the distribution
    of `ancestral`, which draws x first. A step takes one random number and a row of float64 per token. The last step
    draws x ~ prediction.
    """

    class Config(WalkConfig):
        type: Literal["analytic"] = "analytic"

    config: Config

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        process, prediction = walk.discrete, walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        levels = uniform(x.shape, walk.generator, device=x.device)
        times = [time[:, None].expand(x.shape) for time in walk.times(x, step.t, step.s)]

        def draw(log_p: Tensor, u: Tensor, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor]:
            return (pick(tweedie_rows(process, log_p, z, t, s), u),)

        (states,) = prediction.scan(draw, prediction.where, levels, x, *times)
        return x.masked_scatter(prediction.where, states)


def tweedie_rows(process: DiscreteProcess, log_p: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """p(z_s | z_t) of single predicted tokens, float64 [N, S].

    Masked: [u p | 1 - u], with u the probability of a reveal. Uniform: exp(dsigma Q) = a I + (1 - a) / V 11^T with
    a = alpha_{t|s}. Its inverse maps q_t(y | x) to q_s(y | x), so [exp(-dsigma Q) r](i) = E_{x ~ p}[q_s(i | x) /
    q_t(z | x)]. It is computed as a sum of positive terms, since the inverse would subtract nearly equal numbers and
    does not exist at a = 0.

    Args:
        log_p: log-probabilities of x [N, V].
        z: ids [N].
        t, s: times [N].
    """
    p = log_p.double().exp()
    if process.carry_over:
        return posterior_rows(process, p, z, t, s)
    index, keep = z[:, None], process.keep_prob(t, s)[:, None]
    alpha_t, alpha_s = (process.schedule.alpha(time.double())[:, None] for time in (t, s))
    share_t, share_s = (process.schedule.noise(time.double())[:, None] / p.shape[1] for time in (t, s))
    p_z = p.gather(1, index)
    evidence = share_t.expand_as(p).scatter(1, index, alpha_t + share_t)  # q_t(z | x) for each x
    inverse = p_z / (alpha_t + share_t) + (1 - p_z) / share_t  # E[1 / q_t(z | x)]
    rows = share_s * inverse + alpha_s * p / evidence
    forward = ((1 - keep) / p.shape[1]).expand_as(p)
    rows = rows * forward.scatter_add(1, index, keep)
    return rows / rows.sum(-1, keepdim=True)
