"""Backbones: networks that are independent of the noise schedule.

Shapes: B batch, L tokens, S input states, V output vocabulary, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.registry import Registry


@dataclass(frozen=True)
class TokenSpace:
    """Input and output of a backbone.

    Args:
        num_states: input symbols (S).
        vocab_size: output symbols (V).
        length: tokens a sample (L).
        grid: height, width and channels of an image, which its tokens fill row by row; None for other data.
    """

    num_states: int
    vocab_size: int
    length: int
    grid: tuple[int, int, int] | None = None


class Backbone(nn.Module, Component, ABC):
    """Maps noised tokens and a time to hidden states; `head` maps rows of hidden states [N, D] to logits [N, V].

    The separate head lets a `Prediction` compute logits only at the positions that need them. A subclass sets
    `head`, `width` (D) and `time_conditioned` (whether t makes a difference), and `residual_sites` if it adds
    residuals in more places than its embedding.
    """

    uses_context: ClassVar[bool] = False
    """Whether it also predicts from clean tokens (`BlockBackbone`)."""
    takes_token_times: ClassVar[bool] = False
    """Whether it takes times [B, L], and is trained with another time at each token, as known tokens have time 0."""

    head: nn.Module
    width: int
    time_conditioned: bool
    residual_sites: int = 1

    def __init__(self, config: ComponentConfig, *, tokens: TokenSpace) -> None:
        nn.Module.__init__(self)
        Component.__init__(self, config)
        self.tokens = tokens

    @abstractmethod
    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """Hidden states [B, L, D].

        Args:
            x_t: ids [B, L], or probabilities over states [B, L, S] (embedded as their mean embedding).
            t: [B], in [0, 1], or [B, L] (`takes_token_times`); ignored unless the backbone is conditioned on time.
            residual: [R, B, L, D] added to the residual stream (noise input). The first is added to the token
                embedding. If R is `residual_sites`, each further one is added at its site (before each further block
                of a transformer).
        """

    def settled(self, device_type: str) -> dict[str, str]:
        """Resolved values of settings that are "auto", on this kind of device; logged, and stored with the run."""
        return {}

    def layers(self) -> Sequence[nn.Module]:
        """Its blocks in a row, first to last: the ModuleList `blocks`; empty for a backbone of another shape."""
        return list(getattr(self, "blocks", ()))

    def num_parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.parameters())


BACKBONES: Registry[Backbone] = Registry("backbone", Backbone, "fewstep.backbones")
