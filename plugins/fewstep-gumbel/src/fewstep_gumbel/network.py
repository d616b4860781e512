"""A denoiser that sees the noise which decides its masked tokens.

Shapes: B batch, L tokens, V vocabulary, D width, R places of injection.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from fewstep.denoisers.base import Blueprint
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.condition import Condition
from fewstep.predictions.logit_noise import LogitNoise
from fewstep.runtime.streams import Randomness
from fewstep_gumbel.condition import noise_of
from fewstep_gumbel.noise import gumbel

N = TypeVar("N", bound="GumbelDenoiser")


class GumbelDenoiser(NetworkDenoiser):
    """A denoiser of masks to whose embedding of each mask a linear map of softmax(noise) is added.

    The noise comes with the condition (`NoiseCondition`), and is fresh at each evaluation without one. That of tokens
    that are shown is not read.
    """

    noise_map: nn.Linear

    @classmethod
    def build(cls: type[N], blueprint: Blueprint) -> N:
        network = super().build(blueprint)
        network.noise_map = nn.Linear(network.process.vocab_size, network.backbone.width, bias=False)
        return network

    @property
    def has_latent(self) -> bool:
        return True

    def _adapted(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness
    ) -> tuple[Tensor | None, LogitNoise | None]:
        residual, at_logits = super()._adapted(x_t, t, s, cond, generator)
        noise = noise_of(cond)
        if noise is None:
            noise = gumbel((*x_t.shape, self.process.vocab_size), generator, device=x_t.device)
        masked = self.process.to_predict(x_t)[..., None]
        seen: Tensor = self.noise_map(noise.softmax(-1).to(self.noise_map.weight.dtype)) * masked
        if residual is None:
            return seen[None], at_logits
        return torch.cat((residual[:1] + seen, residual[1:])), at_logits
