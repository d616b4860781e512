"""A denoiser with a second head: does a noised sample come from data or from a student?

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.denoisers.base import NOTHING, Blueprint
from fewstep.denoisers.low_rank import LowRankDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import HeadPrediction


class Critic(nn.Module):
    """log D / (1 - D) of samples [B], D the probability of data, from hidden states [B, L, D]; 0 before it learns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        features = F.gelu(self.hidden(hidden)).mean(1)
        log_ratio: Tensor = self.out(features)[:, 0]
        return log_ratio.float()


class CriticDenoiser(LowRankDenoiser):
    """A denoiser that also tells noised data from a student's states, if the objective has `adversarial` set.

    Both heads read one evaluation of the trunk.
    """

    critic: Critic | None
    evaluated_by: ClassVar[tuple[str, ...]] = (*LowRankDenoiser.evaluated_by, "judge", "score")

    @classmethod
    def build(cls, blueprint: Blueprint) -> CriticDenoiser:
        network = super().build(blueprint)
        assert isinstance(network, CriticDenoiser)
        wanted = getattr(blueprint.objective, "adversarial", None) is not None
        network.register_module("critic", Critic(network.backbone.width) if wanted else None)
        return network

    def judge(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> tuple[Prediction, Tensor]:
        """The prediction of `forward`, and log D / (1 - D) of each sample, [B].

        Args:
            trunk: whether the gradient of the second reaches the trunk, and not its head alone.
        """
        self._count(x_t)
        prediction = self.predict(x_t, t, s, cond, None)
        hidden = _hidden(prediction)
        return prediction, self._log_ratio(hidden if trunk else hidden.detach())

    def score(
        self, x_t: Tensor, t: Tensor, s: Tensor | None = None, *, cond: Condition = NOTHING, trunk: bool = False
    ) -> Tensor:
        """The second part of `judge` alone, [B]."""
        self._count(x_t)
        with torch.set_grad_enabled(trunk and torch.is_grad_enabled()):
            hidden = _hidden(self.predict(x_t, t, s, cond, None))
        return self._log_ratio(hidden)

    def _log_ratio(self, hidden: Tensor) -> Tensor:
        assert self.critic is not None
        log_ratio: Tensor = self.critic(hidden)
        return log_ratio


def _hidden(prediction: Prediction) -> Tensor:
    output = prediction.output
    assert isinstance(output, HeadPrediction)
    return output.hidden
