"""Uniform process: noise replaces a token by a draw from the whole vocabulary.

Shapes: B batch, L tokens, V vocabulary (also the number of states).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.predictions.positions import everywhere
from fewstep.processes.base import PROCESSES, Corrupted, DiscreteProcess, ProcessConfig, hard_ids, per_token, soft_rows
from fewstep.runtime.streams import Randomness, integers, uniform


@PROCESSES.register("uniform")
class UniformProcess(DiscreteProcess):
    """Uniform diffusion: each token is kept with probability alpha(t), else replaced by a uniform draw.

    The stationary distribution is 1/V on every symbol (arXiv 2603.20155, section 2).
    """

    carry_over = False

    class Config(ProcessConfig):
        type: Literal["uniform"] = "uniform"

    config: Config

    @property
    def num_states(self) -> int:
        return self.vocab_size

    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        return integers(self.vocab_size, shape, generator, device=device)

    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        x0 = hard_ids(x0, generator)
        u = uniform(x0.shape, generator, device=x0.device, dtype=torch.float32)
        noised = u >= per_token(self.schedule.alpha(t))
        noise = self.prior((x0.shape[0], x0.shape[1]), device=x0.device, generator=generator)
        return Corrupted(torch.where(noised, noise, x0), noised)

    def to_predict(self, x_t: Tensor) -> Tensor:
        return everywhere(x_t)

    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha = per_token(self.schedule.alpha(t.double()))[..., None]
        same = x_t[..., None] == torch.arange(self.vocab_size, device=x_t.device)
        return alpha * same + (1 - alpha) / self.vocab_size

    def posterior_probs(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        keep, swap, alpha_s = self._levels(t, s)
        now = one_hot(x_t, self.vocab_size).double()
        clean = soft_rows(x0, self.vocab_size)
        weights = (keep[..., None] * now + swap[..., None]) * (
            alpha_s[..., None] * clean + (1 - alpha_s[..., None]) / self.vocab_size
        )
        return weights / weights.sum(-1, keepdim=True)

    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Draw z_s exactly as a mixture of three: stay at z_t, jump to x, or draw uniformly.

        For hard x the posterior weight of c is (a 1[c = z_t] + b)(d 1[c = x] + e); multiplied out, its terms are
        these three branches. No row over V is formed and no probability is rounded away at small steps.
        """
        keep, swap, alpha_s = self._levels(t, s)
        base = (1 - alpha_s) / self.vocab_size
        stay = keep * (base + alpha_s * (x0 == x_t))
        jump = (swap * alpha_s).expand_as(stay)
        spread = (swap * base * self.vocab_size).expand_as(stay)
        u = uniform(x_t.shape, generator, device=x_t.device) * (stay + jump + spread)
        noise = self.prior((x_t.shape[0], x_t.shape[1]), device=x_t.device, generator=generator)
        # u may round up to the sum of the weights, so a branch of weight 0 is excluded by its weight.
        moved = torch.where((u < stay + jump) | (spread == 0), x0, noise)
        return torch.where((u < stay) | (jump + spread == 0), x_t, moved)

    def _levels(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha_{t|s}, (1 - alpha_{t|s}) / V and alpha_s, float64, broadcast over tokens."""
        keep = self.keep_prob(t, s)
        return per_token(keep), per_token((1 - keep) / self.vocab_size), per_token(self.schedule.alpha(s.double()))
