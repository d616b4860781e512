"""Rates of the reverse jump process, and a step in which a token jumps at most once.

From t towards 0, a mask is revealed at the rate beta_t and becomes y with probability p(y). A token z of the uniform
process becomes y != z at the rate sigma'_t / V * r(y), with sigma = -log alpha and
r(y) = E_{x ~ p}[q_t(y | x) / q_t(z | x)] (SEDD, arXiv 2310.16834). Shapes: B batch, L tokens, V vocabulary, N rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction
from fewstep.predictions.draws import pick
from fewstep.processes.base import TINY, DiscreteProcess
from fewstep.runtime.streams import Randomness, uniform
from fewstep.samplers.walk import Step, Walk, WalkSampler

Chance = Callable[[Tensor], Tensor]
"""h * (total rate out of a state), which may be infinite -> probability of leaving the state in a step of length h."""


class JumpSampler(WalkSampler):
    """A sampler in which a token leaves z_t with a probability, `chance`, that grows with the rates at t.

    The last step draws x ~ prediction, which leaves no noise.
    """

    @staticmethod
    @abstractmethod
    def chance(expected: Tensor) -> Tensor:
        """Probability of leaving a state in a step of length h, from h times its total rate."""

    def step(self, walk: Walk, x: Tensor, step: Step) -> Tensor:
        prediction = walk.predict(x, step)
        if step.last:
            return prediction.sample(generator=walk.generator)
        process, (now,) = walk.discrete, walk.times(x, step.t)
        return jump(process, prediction, x, now, step.t - step.s, self.chance, generator=walk.generator)


def speed(process: DiscreteProcess, t: Tensor) -> Tensor:
    """Unit of the rates: beta_t = -alpha' / (1 - alpha) of masks, sigma'_t / V = -alpha' / (V alpha); float64 [B].

    At alpha = 0 sigma' is infinite, and this is a huge number.
    """
    t = t.double()
    if process.carry_over:
        return process.schedule.elbo_weight(t)
    return -process.schedule.alpha_prime(t) / (process.vocab_size * process.schedule.alpha(t).clamp_min(TINY))


def ratios(here: Tensor, alpha: Tensor, noise: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Numbers a, b [N] with r(y) = E_{x ~ p}[q_t(y | x) / q_t(z | x)] = a + b p(y) for y != z, uniform process.

    With c = (1 - alpha) / V they are a = 1 - p(z) alpha / (alpha + c) and b = alpha / c, finite for any alpha < 1.

    Args:
        here: p(z), float64 [N].
        alpha, noise: levels alpha_t and 1 - alpha_t, float64 [N].
    """
    share = noise / vocab_size
    return 1 - here * alpha / (alpha + share), alpha / share


def leave(
    chance: Chance, log_p: Tensor, z: Tensor, alpha: Tensor, noise: Tensor, level: Tensor, move: Tensor, u: Tensor
) -> Tensor:
    """States of tokens of the uniform process after a step, z for tokens that stay (LongTensor [N]).

    A token that leaves z jumps to y in proportion to a + b p(y): in one part uniformly over y != z, in the other
    from p without z. So no row of rates is formed.

    Args:
        chance: probability of a jump, from the length times the total rate.
        log_p: log-probabilities of x [N, V].
        z: ids [N].
        alpha, noise, level, move, u: float64 [N]; levels of t, length of the step times `speed`, and two uniform
            numbers, which decide whether and where to jump.
    """
    count, p_z = log_p.shape[1] - 1, log_p.gather(1, z[:, None])[:, 0].double().exp()
    base, slope = ratios(p_z, alpha, noise, log_p.shape[1])
    even, by_p = base * count, slope * (1 - p_z)
    share = even / (even + by_p)
    index = (u / share * count).long().clamp(0, count - 1)  # among all symbols but z
    without_z = log_p.scatter(1, z[:, None], -torch.inf).exp()  # zeros if z is certain; then the jump is uniform
    symbols = pick(without_z, ((u - share) / (1 - share)).clamp(0, 1), empty=True)
    target = torch.where(u < share, index + (index >= z), symbols)
    return torch.where(move < chance(level * (even + by_p)), target, z)


def jump(
    process: DiscreteProcess,
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
        chance: probability of a jump, from `length` times the total rate.
    """
    level = speed(process, t)[:, None].expand(x.shape) * length
    moves = uniform(x.shape, generator, device=x.device)
    if process.carry_over:  # all masks have the same rate, so only revealed ones need a row
        revealed = prediction.where & (moves < chance(level))
        return torch.where(revealed, prediction.sample(generator=generator, where=revealed), x)
    targets = uniform(x.shape, generator, device=x.device)
    levels = [f(t.double())[:, None].expand(x.shape) for f in (process.schedule.alpha, process.schedule.noise)]

    def draw(log_p: Tensor, *extras: Tensor) -> tuple[Tensor]:
        return (leave(chance, log_p, *extras),)

    (states,) = prediction.scan(draw, prediction.where, x, *levels, level, moves, targets)
    return x.masked_scatter(prediction.where, states)
