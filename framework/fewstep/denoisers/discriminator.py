"""A discriminator of noised tokens: does z_t come from data or from a student?

Shapes: B batch, D width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.denoisers.base import Blueprint
from fewstep.denoisers.classifier import NetworkClassifier


class DiscriminatorConfig(ComponentConfig):
    """Settings of a discriminator, for the settings of an objective that has one."""

    trained_blocks: int | None = Field(
        None, ge=0, description="last blocks of the discriminator that learn, with its head; null: all of it learns"
    )
    spectral_norm: bool = Field(
        False, description="divide the weight of the discriminator's head by its largest singular value"
    )


class Discriminator(NetworkClassifier):
    """A classifier of samples into those of a student (0) and data (1).

    With `trained_blocks` only the last blocks and the head learn; all else keeps the weights that it starts from. With
    `spectral_norm` the head is 1-Lipschitz in its hidden state (arXiv 1802.05957; here by the exact singular value of
    its two rows, so there is no state to save). DiDi-Instruct has both, with four blocks (arXiv 2509.25035).
    """

    spectral_norm = False
    trained_blocks: int | None = None

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        return 2

    @classmethod
    def build(cls, blueprint: Blueprint) -> Discriminator:
        network, settings = super().build(blueprint), blueprint.objective
        if isinstance(settings, DiscriminatorConfig):
            network.spectral_norm = settings.spectral_norm
            network.trained_blocks = settings.trained_blocks
            depth = len(network.backbone.layers())
            if (settings.trained_blocks or 0) > depth:
                raise UserError(
                    f"objective.trained_blocks: {settings.trained_blocks} blocks cannot learn, since this "
                    f"{blueprint.backbone.type} backbone has {depth} in a row; null trains all of it"
                )
        return network

    def take_gradients(self, trained: bool) -> None:
        if self.trained_blocks is None:
            super().take_gradients(trained)
            return
        layers = self.backbone.layers()
        self.requires_grad_(False)
        for part in (*layers[len(layers) - self.trained_blocks :], self.backbone.head):
            part.requires_grad_(trained)

    def class_scores(self, hidden: Tensor) -> Tensor:
        if not self.spectral_norm:
            return super().class_scores(hidden)
        head = self.backbone.head
        weight, bias = head.weight, head.bias
        assert isinstance(weight, Tensor)
        assert isinstance(bias, Tensor)
        return F.linear(hidden, weight / torch.linalg.matrix_norm(weight.float(), 2).to(weight.dtype), bias)
