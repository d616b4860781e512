"""Rates of the reverse jump process, and a step in which a token jumps at most once.

Going from t towards 0, a mask is revealed at the rate beta_t and becomes y with probability p(y); a token z of the
uniform process becomes y != z at the rate sigma'_t / V * r(y), with sigma = -log alpha and
r(y) = E_{x ~ p}[q_t(y | x) / q_t(z | x)] (SEDD, arXiv 2310.16834). Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.prediction import Prediction, draw_at
from fewstep.processes.base import TINY, ForwardProcess
from fewstep.randomness import Randomness, uniform
from fewstep.samplers.walk import Step, Walk, WalkSampler

Chance = Callable[[Tensor], Tensor]
"""From h * (total rate out of a state), which may be infinite, to the probability of leaving it in a step of h."""


class JumpSampler(WalkSampler):
    """A sampler in which a token leaves z_t with a `chance` that grows with the rates of t. The last step draws
    x ~ prediction, which leaves no noise."""

    @staticmethod
    @abstractmethod
    def chance(expected: Tensor) -> Tensor:
        """Probability of leaving a state in a step of length h, from h times its total rate."""

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        prediction = walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        process, (now,) = walk.denoiser.process, walk.times(x, step.t)
        return jump(process, prediction, x, now, step.t - step.s, self.chance, generator=walk.generator)


def speed(process: ForwardProcess, t: Tensor) -> Tensor:
    """What a rate is a multiple of: beta_t = -alpha' / (1 - alpha), or sigma'_t / V = -alpha' / (V alpha); float64 [B].

    Where nothing of the data is left, sigma' is infinite and this is a huge number.
    """
    t = t.double()
    if process.carry_over:
        return process.schedule.elbo_weight(t)
    return -process.schedule.alpha_prime(t) / (process.vocab_size * process.schedule.alpha(t).clamp_min(TINY))


def ratios(log_p: Tensor, z: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """r(y) = E_{x ~ p}[q_t(y | x) / q_t(z | x)] of the uniform process, float64 [N, V]; r(z) = 1.

    With b = (1 - alpha) / V it is 1 - p(z) alpha / (alpha + b) + p(y) alpha / b for y != z, finite for any alpha < 1.

    Args:
        log_p: log-probabilities of x [N, V].
        z: ids [N].
        alpha, noise: levels alpha_t and 1 - alpha_t, float64 [N].
    """
    p, alpha, rest = log_p.double().exp(), alpha[:, None], noise[:, None] / log_p.shape[1]
    others = 1 - p.gather(1, z[:, None]) * alpha / (alpha + rest)
    return (others + p * alpha / rest).scatter(1, z[:, None], 1.0)


def jump(
    process: ForwardProcess,
    prediction: Prediction,
    x: Tensor,
    t: Tensor,
    length: float,
    chance: Chance,
    *,
    generator: Randomness,
) -> Tensor:
    """z_{t - length} from z_t = x with the rates of t: stay, or jump to y in proportion to its rate, LongTensor [B, L].

    Args:
        t: times [B].
        chance: of a jump, given `length` times the total rate.
    """
    level = speed(process, t)[:, None].expand(x.shape) * length
    moves = uniform(x.shape, generator, device=x.device)
    if process.carry_over:  # all masks are equally fast, so only those that are revealed need a row
        revealed = prediction.where & (moves < chance(level))
        return torch.where(revealed, prediction.sample(generator=generator, where=revealed), x)
    targets = uniform(x.shape, generator, device=x.device)
    levels = [f(t.double())[:, None].expand(x.shape) for f in (process.schedule.alpha, process.schedule.noise)]

    def draw(log_p: Tensor, z: Tensor, level: Tensor, move: Tensor, u: Tensor, *levels: Tensor) -> tuple[Tensor]:
        away = ratios(log_p, z, *levels).scatter(1, z[:, None], 0.0)
        return (torch.where(move < chance(level * away.sum(1)), draw_at(away.log(), u), z),)

    (drawn,) = prediction.scan(draw, prediction.where, x, level, moves, targets, *levels)
    return x.masked_scatter(prediction.where, drawn)
