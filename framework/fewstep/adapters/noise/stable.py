"""Noise at the logits that leaves the law of a row as it is.

Shapes: B batch, L tokens, V vocabulary, M numbers a token, D width, N rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewstep.adapters.noise.base import NOISE_INPUTS, Noise, NoiseInput
from fewstep.backbones.base import TokenSpace
from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.predictions.logit_noise import LogitNoise
from fewstep.runtime.streams import Randomness, normal, uniform

EULER = 0.5772156649015329
LOWEST = -1e30
"""Stands for log 0 in sums: gradients of -inf would be nan."""
LARGEST = 3.0
"""Standard deviations at which the numbers are cut that the network sees."""


@NOISE_INPUTS.register("stable")
class StableNoise(NoiseInput):
    """Positive-stable noise at the logits: E[p] = softmax(l) exactly, and the network sees it through a linear map.

    p = softmax(l / alpha + zeta), with zeta the logarithm of a positive alpha-stable variable, one a token and symbol.
    For G of Gumbel's law zeta + G has the law of G / alpha. So the largest l / alpha + zeta + G, which is a draw from
    p, is the largest l + G, a draw from softmax(l). The smaller alpha is, the more of the choice is in zeta, and the
    less in the draw. The law is exact for logits that do not depend on zeta, as those of a teacher and of a student
    that starts from it with `init_std: 0`.

    A vocabulary of more than `numbers` symbols is divided into as many classes: symbol c is in class c modulo
    `numbers`, a class has the sum of its symbols' probabilities, and within it they keep their ratios. E[p] is exact
    for every symbol then too.
    """

    noises_logits: ClassVar[bool] = True

    class Config(ComponentConfig):
        type: Literal["stable"] = "stable"
        alpha: float = Field(
            0.5, gt=0, lt=1, description="index of stability; near 0 the noise decides a token, near 1 the draw does"
        )
        numbers: int = Field(
            1024, ge=2, description="most numbers a token; symbols of larger vocabularies share them, c and c + numbers"
        )
        top_k: int | None = Field(
            None, ge=1, description="likeliest symbols of a row with numbers; all others share one; null: all symbols"
        )
        init_std: float = Field(
            0.0, ge=0, description="standard deviation of the projection's initial weights; 0 starts at the teacher"
        )
        beside: Annotated[ComponentConfig | None, From("noise_inputs", optional=True, leaf=True)] = Field(
            None, description="a further noise input, of the residual stream (`pyramid`, say); null for none"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.beside is not None and NOISE_INPUTS.get(self.beside.type).cls.noises_logits:
                yield "beside", f"'{self.beside.type}' is noise at the logits too; name one of the residual stream"
            if recipe.output == "leave_one_out":
                yield "type", "noise at the logits is for rows of p(x | z_t); set `output: x_mean`"

    config: Config

    def __init__(self, config: Config, *, tokens: TokenSpace, width: int, sites: int) -> None:
        super().__init__(config, tokens=tokens, width=width, sites=sites)
        symbols = tokens.vocab_size
        self.top_k = config.top_k if config.top_k is not None and config.top_k < symbols else None
        self.count = min(config.numbers, symbols)
        self.project = nn.Linear(2 * self.count, width, bias=False)
        nn.init.normal_(self.project.weight, std=config.init_std)
        self.beside = None
        if config.beside is not None:
            self.beside = NOISE_INPUTS.build(config.beside, tokens=tokens, width=width, sites=sites)

    def forward(self, count: int, generator: Randomness = None) -> Tensor:
        return self.draw(count, generator).residual

    def draw(self, count: int, generator: Randomness = None) -> Noise:
        alpha, device = self.config.alpha, self.project.weight.device
        shape = (count, self.tokens.length, self.count + (self.top_k is not None))
        zeta = log_stable(shape, alpha, generator, device=device)
        residual = self.project(self._features(zeta[..., : self.count]).to(self.project.weight.dtype))[None]
        if self.beside is not None:
            other = self.beside(count, generator)
            residual = torch.cat((other[:1] + residual, other[1:]))
        return Noise(residual, LogitNoise(zeta, partial(exact_logits, alpha=alpha, top_k=self.top_k)))

    def _features(self, zeta: Tensor) -> Tensor:
        """What the network sees of zeta [B, L, M]: its standard scores, cut, and its softmax; [B, L, 2M]."""
        alpha = self.config.alpha
        scores = (zeta - EULER * (1 / alpha - 1)) / math.sqrt((alpha**-2 - 1) * math.pi**2 / 6)
        shares = (zeta.softmax(-1) - 1 / self.count) * math.sqrt(self.count)
        return torch.cat((scores.clamp(-LARGEST, LARGEST), shares), -1)


def log_stable(
    shape: tuple[int, ...],
    alpha: float,
    source: Randomness,
    *,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Logarithms of positive stable variables S of index alpha, with E[exp(-u S)] = exp(-u^alpha).

    For alpha = 1/2, S = 1 / (2 N^2) with N normal. Else S is that of Kanter (1975): with U uniform on (0, pi) and E
    exponential, S = sin(alpha U) / sin(U)^(1/alpha) (sin((1 - alpha) U) / E)^(1/alpha - 1).

    Args:
        shape: its first axis is the batch.
        alpha: in (0, 1).
    """
    tiny = torch.finfo(dtype).tiny
    if alpha == 0.5:
        return -math.log(2) - 2 * normal(shape, source, device=device, dtype=dtype).abs().clamp_min(tiny).log()
    draws = uniform((*shape, 2), source, device=device, dtype=dtype)
    step = torch.finfo(dtype).eps / 4
    angle, level = (draws.clamp(step, 1 - 2 * step)).unbind(-1)
    angle, exponential = math.pi * angle, -torch.log1p(-level)
    power = 1 / alpha - 1
    return (
        (alpha * angle).sin().log()
        - angle.sin().log() / alpha
        + power * (((1 - alpha) * angle).sin().log() - exponential.log())
    )


def exact_logits(log_p: Tensor, zeta: Tensor, *, alpha: float, top_k: int | None = None) -> Tensor:
    """Logits [N, V] whose softmax has the mean exp(log_p) over zeta.

    A class of symbols of probability P has the logit log P / alpha + zeta. Its symbols divide that by their ratios, so
    one of probability p gets log p - log P + log P / alpha + zeta.

    Args:
        log_p: log-probabilities [N, V].
        zeta: logarithms of independent stable variables [N, M]; with `top_k` the last one is of all other symbols.
        top_k: None for all symbols.
    """
    symbols = log_p.shape[1]
    if top_k is None:
        if zeta.shape[1] == symbols:
            return log_p / alpha + zeta
        return log_p + _tiled(_shift(_class_masses(log_p, zeta.shape[1]), zeta, alpha), symbols)
    inside = torch.zeros_like(log_p, dtype=torch.bool).scatter_(1, log_p.topk(top_k, 1).indices, True)
    masses = _class_masses(log_p.masked_fill(~inside, LOWEST), zeta.shape[1] - 1)
    others = log_p.masked_fill(inside, LOWEST).clamp_min(LOWEST).logsumexp(1, keepdim=True)
    likeliest = _tiled(_shift(masses, zeta[:, :-1], alpha), symbols)
    return log_p + torch.where(inside, likeliest, _shift(others, zeta[:, -1:], alpha))


def _class_masses(log_p: Tensor, count: int) -> Tensor:
    """Logarithms of the summed probabilities of symbols c with the same c modulo `count`: [N, count]."""
    short = -log_p.shape[1] % count
    rows = nn.functional.pad(log_p.clamp_min(LOWEST), (0, short), value=LOWEST)
    return rows.unflatten(1, (-1, count)).logsumexp(1)


def _shift(mass: Tensor, zeta: Tensor, alpha: float) -> Tensor:
    return (1 / alpha - 1) * mass + zeta


def _tiled(rows: Tensor, symbols: int) -> Tensor:
    """Numbers of classes [N, M] as numbers of symbols [N, V]."""
    return rows.repeat(1, -(-symbols // rows.shape[1]))[:, :symbols]
