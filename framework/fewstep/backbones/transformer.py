"""Transformer over a sequence."""

from __future__ import annotations

from typing import Literal

import torch

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.backbones.trunk import TransformerTrunk, TrunkConfig


@BACKBONES.register("transformer")
class Transformer(TransformerTrunk):
    """Bidirectional transformer over a sequence, with rotary positions (arXiv 2104.09864).

    Pre-norm, GELU; conditioned on time by adaLN-Zero (DiT, arXiv 2212.09748) if asked to.
    """

    class Config(TrunkConfig):
        type: Literal["transformer"] = "transformer"

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens, coordinates=torch.arange(tokens.length)[:, None].float())
