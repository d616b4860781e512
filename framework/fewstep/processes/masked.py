"""Masked (absorbing) process: a token is either clean or [MASK].

Shapes: B batch, L tokens, V clean vocabulary; the state V is [MASK].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.predictions.base import Prediction
from fewstep.predictions.positions import remember, remembered, split
from fewstep.processes.base import (
    PROCESSES,
    TINY,
    Corrupted,
    DiscreteProcess,
    ProcessConfig,
    StepMasks,
    hard_ids,
    per_token,
    soft_rows,
)
from fewstep.runtime.streams import Randomness, uniform


@PROCESSES.register("masked")
class MaskedProcess(DiscreteProcess):
    """Absorbing diffusion: each token is kept with probability alpha(t), else it is [MASK].

    The stationary distribution is one-hot on [MASK] (arXiv 2603.20155, section 2; MDLM, arXiv 2406.07524).
    """

    carry_over = True

    class Config(ProcessConfig):
        type: Literal["masked"] = "masked"

    config: Config

    @property
    def num_states(self) -> int:
        return self.vocab_size + 1

    @property
    def mask_id(self) -> int:
        """The state that means [MASK]: one past the vocabulary."""
        return self.vocab_size

    def prior(self, shape: tuple[int, int], *, device: torch.device | str, generator: Randomness) -> Tensor:
        return torch.full(shape, self.mask_id, dtype=torch.long, device=device)

    def corrupt(self, x0: Tensor, t: Tensor, *, generator: Randomness) -> Corrupted:
        x0 = hard_ids(x0, generator)
        u = uniform(x0.shape, generator, device=x0.device, dtype=torch.float32)
        noised = u >= per_token(self.schedule.alpha(t))
        return Corrupted(x0.masked_fill(noised, self.mask_id), noised)

    def to_predict(self, x_t: Tensor) -> Tensor:
        return remembered(x_t, ("masked", self.mask_id), lambda: x_t == self.mask_id)

    def evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        same = x_t[..., None] == torch.arange(self.vocab_size, device=x_t.device)
        return torch.where(self.to_predict(x_t)[..., None], 1.0, same.double())

    def unmask_prob(self, t: Tensor, s: Tensor) -> Tensor:
        """(alpha_s - alpha_t) / (1 - alpha_t): probability that a mask at t is revealed by s, in [0, 1]."""
        alpha_t, alpha_s = self.schedule.alpha(t.double()), self.schedule.alpha(s.double())
        return ((alpha_s - alpha_t) / (1 - alpha_t).clamp_min(TINY)).clamp(0, 1)

    def posterior_probs(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        clean = soft_rows(x0, self.vocab_size)
        reveal = per_token(self.unmask_prob(t, s))[..., None]
        masked = torch.cat([reveal * clean, (1 - reveal).expand(*clean.shape[:2], 1)], dim=-1)
        return torch.where(self.to_predict(x_t)[..., None], masked, one_hot(x_t, self.num_states).double())

    def posterior_sample(self, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        return torch.where(self.draw_reveals(x_t, t, s, generator=generator), x0, x_t)

    def draw_masks(self, x_t: Tensor, times: Sequence[Tensor], *, generator: Randomness) -> list[StepMasks | None]:
        masked = self.to_predict(x_t)
        steps = list[StepMasks | None]()
        for t, s in pairwise(times):
            u = uniform(x_t.shape, generator, device=x_t.device)
            revealed, masked = split(masked, u < per_token(self.unmask_prob(t, s)))
            steps.append(StepMasks(revealed, masked))
        return steps

    def keep_masks(self, x: Tensor, left: Tensor) -> Tensor:
        remember(x, ("masked", self.mask_id), left)
        return x

    def step_back(
        self,
        x_t: Tensor,
        prediction: Prediction,
        t: Tensor,
        s: Tensor,
        *,
        generator: Randomness,
        masks: StepMasks | None = None,
    ) -> Tensor:
        if masks is None:
            t, s = prediction.on_clock(t, s)
            # The choice of places does not depend on the tokens there. Tokens are therefore drawn only at those places.
            revealed = self.draw_reveals(x_t, t, s, generator=generator)
            return torch.where(revealed, prediction.sample(generator=generator, where=revealed), x_t)
        return self.reveal(prediction.sample(generator=generator, where=masks.revealed), x_t, masks)

    def step_at(
        self,
        x_t: Tensor,
        prediction: Prediction,
        levels: Tensor,
        t: Tensor,
        s: Tensor,
        *,
        generator: Randomness,
        masks: StepMasks | None = None,
    ) -> Tensor:
        if masks is None:
            revealed = self.draw_reveals(x_t, t, s, generator=generator)
            return torch.where(revealed, prediction.sample_at(levels, revealed), x_t)
        return self.reveal(prediction.sample_at(levels, masks.revealed), x_t, masks)

    def draw_reveals(self, x_t: Tensor, t: Tensor, s: Tensor, *, generator: Randomness) -> Tensor:
        """Draw the masks that a step reveals (BoolTensor [B, L]); the draw does not depend on the clean tokens."""
        u = uniform(x_t.shape, generator, device=x_t.device)
        return self.to_predict(x_t) & (u < per_token(self.unmask_prob(t, s)))
