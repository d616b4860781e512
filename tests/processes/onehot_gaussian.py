"""One-hot vectors in Gaussian noise: a process of vectors that recipes name as a plugin file.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fewstep.objectives.parts.gaussian_dual import induced_alpha
from fewstep.predictions.base import Prediction
from fewstep.processes.base import PROCESSES, TINY, Corrupted, Process, ProcessConfig, per_token, soft_rows
from fewstep.runtime.streams import Randomness, normal


@PROCESSES.register("onehot_gaussian")
class OneHotGaussian(Process):
    """z = (1 - g) e + g onehot(x), e ~ N(0, I), and the straight flow from noise to data (FLM, arXiv 2602.16813).

    g is the level at which the largest coordinate of z is x with probability alpha + (1 - alpha) / V, so that equal
    steps of the schedule `linear` recover equal shares of the tokens.
    """

    space = "continuous"
    greedy_tail = 1

    class Config(ProcessConfig):
        type: Literal["onehot_gaussian"] = "onehot_gaussian"

    @property
    def num_states(self) -> int:
        return self.vocab_size

    @cached_property
    def table(self) -> Tensor:
        """alpha at 2,001 levels g from 0 to 1, of which g / (1 - g) = exp(-gamma / 2)."""
        return induced_alpha(-2 * torch.logit(torch.linspace(0, 1, 2001, dtype=torch.float64)), self.vocab_size)

    def signal(self, t: Tensor) -> Tensor:
        """g at times t [B] or [B, L]: float64 [B, 1, 1] or [B, L, 1]."""
        alpha, table = self.schedule.alpha(t.double()).clamp(0, 1), self.table.to(t.device)
        right = torch.searchsorted(table, alpha, right=True).clamp(max=len(table) - 1)
        share = ((alpha - table[right - 1]) / (table[right] - table[right - 1]).clamp_min(TINY)).clamp(0, 1)
        return per_token((right - 1 + share) / (len(table) - 1))[..., None]

    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        return normal((*shape, self.vocab_size), generator, device=device)

    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        clean, g = soft_rows(x0, self.vocab_size), self.signal(t)
        noise = self.prior((clean.shape[0], clean.shape[1]), device=clean.device, generator=generator)
        return Corrupted(((1 - g) * noise + g * clean).float(), (g[..., 0] < 1).expand(clean.shape[:2]))

    def step_back(self, x_t: Tensor, prediction: Prediction, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        t, s = prediction.on_clock(t, s)
        left = (1 - self.signal(s)) / (1 - self.signal(t)).clamp_min(TINY)  # share of the noise
        return (left * x_t + (1 - left) * prediction.dense_probs()).float()

    def to_predict(self, x_t: Tensor) -> Tensor:
        return torch.ones(x_t.shape[:2], dtype=torch.bool, device=x_t.device)

    def to_ids(self, x_t: Tensor) -> Tensor:
        return x_t.argmax(-1)

    def hold(self, x_t: Tensor, prompt: Tensor, t: Tensor, *, generator: Randomness) -> Tensor:
        noised = self.corrupt(prompt.clamp_min(0), t, generator=generator).x_t
        return torch.where((prompt >= 0)[..., None], noised, x_t)

    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        g = self.signal(t)
        return (g * x_t.double() / (1 - g).clamp_min(TINY) ** 2).softmax(-1)
