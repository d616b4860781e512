"""Diffusion transformer for text, in the layout of MDLM's and Duo's code.

Shapes: B batch, L tokens, S input states, V output vocabulary, D width, C channels of the time's embedding, R rows of
modulation (1 or B).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.attention import attention, resolve_backend
from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.heads import symbol_head
from fewstep.backbones.layers import (
    AttentionContext,
    in_stream,
    initialise,
    modulate,
    rotary_table,
    rotate_halves,
    run_block,
    sinusoids,
)
from fewstep.backbones.transformer_config import StreamConfig
from fewstep.backbones.trunk import of_tokens

FREQUENCIES = 256
"""Number of sinusoids of an embedded time."""

LEFT = 1e-3
"""Signal left at t = 1 in the network's time input, sigma = -log(1 - (1 - LEFT) t)."""


@BACKBONES.register("dit")
class DiT(Backbone):
    """Diffusion transformer for text (DDiT of SEDD, arXiv 2310.16834; MDLM, arXiv 2406.07524; Duo, arXiv 2506.10892).

    Bidirectional, pre-norm, rotary, adaLN in every block and before the head. Parameters have the names of the code of
    MDLM, Duo, SDTT and IDLM, so `fewstep import` reads their checkpoints. The exception is `head`, there
    `output_layer.linear`, which also has a row for [MASK].

    With `time_conditioned` it is conditioned on sigma = -log alpha of the log-linear schedule (Duo). Otherwise sigma is
    always 0, as in MDLM: adaLN is then a constant, but a trained one.
    """

    class Config(StreamConfig):
        type: Literal["dit"] = "dit"
        cond_width: int = Field(128, gt=0, description="channels of the embedded time (C)")
        time_conditioned: bool = Field(
            False, description="condition on the time (uniform states, Duo), or always on sigma = 0"
        )
        rotary_base: float = Field(10_000.0, gt=1, description="ratio of the fastest to the slowest rotary frequency")

    config: Config
    rotations: Tensor

    def __init__(self, config: Config, *, tokens: TokenSpace) -> None:
        super().__init__(config, tokens=tokens)
        self.width = config.width
        self.residual_sites = config.depth
        self.time_conditioned = config.time_conditioned
        self.vocab_embed = SymbolEmbedding(tokens.num_states, config.width)
        self.sigma_map = SigmaEmbedding(config.cond_width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.output_layer = OutputNorm(config.width, config.cond_width)
        self.head = symbol_head(self.vocab_embed, "embedding", tokens, config.width, tied=config.tie_weights)
        places = torch.arange(tokens.length)[:, None].float()
        turns = rotary_table(places, config.width // config.heads, config.rotary_base)
        self.register_buffer("rotations", turns, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """As `TransformerTrunk` does; adaLN starts at zero, so every block starts as the identity."""
        initialise(self)
        nn.init.normal_(self.vocab_embed.embedding, std=0.02)
        for block in (module for module in self.modules() if isinstance(module, DiTBlock)):
            nn.init.zeros_(block.adaLN_modulation.weight)
            for last in (block.attn_out, block.mlp[2]):
                nn.init.normal_(last.weight, std=0.02 / (2 * len(self.blocks)) ** 0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.output_layer.adaLN_modulation.weight)

    def forward(self, x_t: Tensor, t: Tensor, *, residual: Tensor | None = None) -> Tensor:
        x = in_stream(self.vocab_embed(x_t), self.config.residual_stream)
        backend = resolve_backend(self.config.attention, x.device.type)
        context = AttentionContext(of_tokens(self.rotations, x.shape[1]), backend)
        time = self._embed_time(t)
        for index, block in enumerate(self.blocks):
            if residual is not None and index < residual.shape[0]:
                x = x + residual[index].to(x.dtype)
            x = run_block(block, x, context, time, recompute=self.config.activation_checkpointing)
        hidden: Tensor = self.output_layer(x, time)
        return hidden

    def _embed_time(self, t: Tensor) -> Tensor:
        """Embedded time, the input of adaLN: [R, 1, C]."""
        if not self.time_conditioned:
            t = t.new_zeros(1)
        time: Tensor = self.sigma_map(-torch.log1p(t.float() * (LEFT - 1)))
        return time[:, None]

    def settled(self, device_type: str) -> dict[str, str]:
        return {"attention": resolve_backend(self.config.attention, device_type)}


class SymbolEmbedding(nn.Module):
    """One row for each state, as a bare parameter."""

    def __init__(self, states: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(states, width))

    def forward(self, x_t: Tensor) -> Tensor:
        """Ids [B, L] or probabilities [B, L, S] -> [B, L, D]."""
        if x_t.is_floating_point():
            return x_t.to(self.embedding.dtype) @ self.embedding
        return F.embedding(x_t, self.embedding)


class SigmaEmbedding(nn.Module):
    """sigma [R] -> [R, C], through 256 sinusoids and an MLP, in float32 also under autocast: sigma has many digits."""

    in_float32 = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        with torch.autocast(sigma.device.type, enabled=False):
            features: Tensor = F.silu(self.mlp(sinusoids(sigma, FREQUENCIES, scale=1.0)))
        return features


class DiTBlock(nn.Module):
    """x + gate attention(modulated norm(x)), then the same with an MLP; gates, shifts and scales from the time.

    Unlike in `layers.Block`, norms have a gain beside their modulation, each block has its own adaLN, the output of
    attention has no bias, GELU is the tanh approximation, and rotary positions rotate channels i and i + Dh / 2
    together.
    """

    def __init__(self, config: DiT.Config) -> None:
        super().__init__()
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.heads, self.dropout = config.heads, config.dropout
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.attn_qkv = nn.Linear(width, 3 * width, bias=False)
        self.qk_gain = nn.Parameter(torch.ones(2, 1, width // config.heads)) if config.qk_norm else None
        self.attn_out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        self.adaLN_modulation = nn.Linear(config.cond_width, 6 * width)

    def forward(self, x: Tensor, context: AttentionContext, time: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]; `time` [R, 1, C] broadcasts over tokens, or also over samples."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(time).chunk(6, -1)
        branch = self._attend(modulate(self.norm1(x), shift1, scale1), context)
        x = torch.addcmul(x, gate1, F.dropout(branch, self.dropout, self.training))
        branch = self.mlp(modulate(self.norm2(x), shift2, scale2))
        return torch.addcmul(x, gate2, F.dropout(branch, self.dropout, self.training))

    def _attend(self, x: Tensor, context: AttentionContext) -> Tensor:
        qk, v = self.attn_qkv(x).unflatten(-1, (3, self.heads, -1)).split((2, 1), dim=2)
        if self.qk_gain is not None:
            qk = (F.rms_norm(qk, qk.shape[-1:]) * self.qk_gain).to(v.dtype)
        q, k = rotate_halves(qk, context.rotations).unbind(2)
        mixed = attention(q, k, v.squeeze(2), backend=context.backend, mask=context.mask)
        out: Tensor = self.attn_out(mixed.flatten(2))
        return out


class OutputNorm(nn.Module):
    """The norm before the head, modulated by the time."""

    def __init__(self, width: int, cond_width: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, bias=False)
        self.adaLN_modulation = nn.Linear(cond_width, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D], with the embedded time [R, 1, C]."""
        shift, scale = self.adaLN_modulation(time).chunk(2, -1)
        return modulate(self.norm_final(x), shift, scale)
