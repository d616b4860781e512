"""A denoiser with a clock for each position, from two heads on its backbone.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fewstep.backbones.attention import resolve_backend
from fewstep.backbones.layers import AttentionContext, Block, initialise, rotary_table
from fewstep.core.errors import UserError
from fewstep.denoisers.base import NOTHING, Blueprint
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import HeadPrediction
from fewstep.runtime.streams import Randomness
from fewstep_orders.exponents import ExponentClock, Family
from fewstep_orders.settings import OrderConfig

N = TypeVar("N", bound="OrderedDenoiser")


class OrderHead(nn.Module):
    """One transformer block and an MLP: features [B, L, D] -> one score for each position [B, L].

    The last layer starts at zero, so that training starts with equal exponents.

    Raises:
        UserError: the width is odd.
    """

    rotations: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        heads = next((heads for heads in (4, 2, 1) if width % (2 * heads) == 0), None)
        if heads is None:
            raise UserError(f"order heads need an even width, and the backbone's is {width}")
        self.block = Block(width, heads, 4 * width, qk_norm=False, modulated=False, dropout=0.0)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)
        positions = torch.arange(length)[:, None].float()
        self.register_buffer("rotations", rotary_table(positions, width // heads, 10_000.0), persistent=False)
        initialise(self)
        nn.init.zeros_(self.out.weight)

    def forward(self, features: Tensor) -> Tensor:
        backend = resolve_backend("auto", features.device.type)
        x = self.norm(self.block(features, AttentionContext(self.rotations, backend), None))
        scores: Tensor = self.out(nn.functional.gelu(self.hidden(x)))[..., 0]
        return scores.float()


class OrderedDenoiser(NetworkDenoiser):
    """A denoiser whose predictions bring the clock t^e of each position (LoMDM, arXiv 2602.02112).

    The reverse head reads the features of z_t, and its clock is that of the predictions. The forward head reads the
    features of clean tokens, and orders the noising of a training. Features are detached: the heads' losses do not move
    the backbone. Without a learned order both clocks are constants and there are no heads.
    """

    has_clock = True
    evaluated_by: ClassVar[tuple[str, ...]] = (*NetworkDenoiser.evaluated_by, "forward_exponents")
    family: Family
    forward_head: OrderHead | None
    reverse_head: OrderHead | None
    constant: Tensor

    @classmethod
    def build(cls: type[N], blueprint: Blueprint) -> N:
        network = super().build(blueprint)
        assert isinstance(blueprint.objective, OrderConfig)
        network.take_order(blueprint.objective.family())
        return network

    def take_order(self, family: Family) -> None:
        """Add the heads of a family, or its constants.

        Raises:
            UserError: it has a constant for another number of positions.
        """
        self.family, self.forward_head, self.reverse_head = family, None, None
        if family.learned:
            width = self.backbone.width
            self.forward_head, self.reverse_head = OrderHead(width, self.length), OrderHead(width, self.length)
            return
        constant = family.constant(self.length)
        if len(constant) != self.length:
            raise UserError(f"objective.exponents: {len(constant)} exponents for samples of {self.length} tokens")
        self.register_buffer("constant", constant, persistent=False)

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        prediction = super().predict(x_t, t, s, cond, generator)
        assert isinstance(prediction, HeadPrediction)
        prediction.clock = ExponentClock(self._exponents(self.reverse_head, prediction.hidden))
        return prediction

    def forward_exponents(self, x0: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Exponents [B, L] of the noising of clean tokens x0 [B, L]; gradients reach the forward head alone."""
        if self.forward_head is None:
            return self.constant.expand(x0.shape)
        self._count(x0)
        t = torch.zeros(len(x0), device=x0.device)
        with torch.no_grad():
            features = self.backbone(x0, t, residual=self._residual(x0, t, t, cond, None))
        return self._exponents(self.forward_head, features)

    def _exponents(self, head: OrderHead | None, features: Tensor) -> Tensor:
        if head is None:
            return self.constant.expand(features.shape[:2])
        return self.family.exponents(head(features.detach()))
