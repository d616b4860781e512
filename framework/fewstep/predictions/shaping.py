"""Row maps that shape a prediction: temperature, top-p, a floor. Rows are normalised log-probabilities [N, V]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap


def temperature(value: float) -> RowMap:
    """p^(1/value), renormalised, for any value above 0; one too small to divide by leaves the likeliest symbols."""

    def apply(log_p: Tensor) -> Tensor:
        limits = torch.finfo(log_p.dtype)
        if value > 1e4 / limits.max:
            return (log_p / min(value, limits.max)).log_softmax(-1)  # -inf / inf would be nan
        # Every quotient would be -inf but those of the likeliest symbols, which are 0 here.
        return ((log_p - log_p.amax(-1, keepdim=True)) / max(value, limits.tiny)).log_softmax(-1)

    return apply


def top_p(mass: float) -> RowMap:
    """Keep the smallest set of likeliest symbols that holds at least `mass`; all other symbols get probability 0."""

    def apply(log_p: Tensor) -> Tensor:
        return log_p.masked_fill(outside_top_p(log_p, mass), -float("inf")).log_softmax(-1)

    return apply


def lowered_top_p(mass: float, delta: float) -> RowMap:
    """Lower the logits of symbols outside top-p by `delta`, so that gradients stay bounded (arXiv 2603.20155, 3.3)."""

    def apply(log_p: Tensor) -> Tensor:
        return (log_p - delta * outside_top_p(log_p, mass)).log_softmax(-1)

    return apply


def floor(least: float) -> RowMap:
    """Raise probabilities to `least`, and renormalise: no symbol is impossible, so that reverse KL is bounded."""

    def apply(log_p: Tensor) -> Tensor:
        return log_p.clamp_min(math.log(least)).log_softmax(-1)

    return apply


def likeliest(log_p: Tensor) -> Tensor:
    """All mass on the likeliest symbol of each row; a row that is not finite stays so, for draws to refuse."""
    if not log_p.numel():
        return log_p
    best, index = log_p.max(-1, keepdim=True)
    return torch.full_like(log_p, -float("inf")).scatter(-1, index, best - best)


def outside_top_p(log_p: Tensor, mass: float) -> Tensor:
    """BoolTensor [N, V], true for the symbols outside top-p; the likeliest one is always inside."""
    ordered, index = log_p.sort(-1, descending=True)
    p = ordered.exp()
    before = p.cumsum(-1) - p
    drop = before >= mass
    drop[..., 0] = False
    return drop.scatter(-1, index, drop)


def shape(
    prediction: Prediction,
    *,
    temperature_: float = 1.0,
    top_p_: float = 1.0,
    delta: float | None = None,
    floor_: float = 0.0,
) -> Prediction:
    """The prediction with temperature applied first, then top-p, then the floor; 1.0, 1.0 and 0.0 change nothing.

    Args:
        delta: amount by which logits outside top-p are lowered; None gives those symbols probability 0.
        floor_: smallest probability of a symbol.
    """
    for row_map in row_maps(temperature_=temperature_, top_p_=top_p_, delta=delta):
        prediction = prediction.shaped(row_map)
    return prediction.shaped(floor(floor_)) if floor_ else prediction


def row_maps(
    *, temperature_: float = 1.0, top_p_: float = 1.0, delta: float | None = None, greedy: bool = False
) -> tuple[RowMap, ...]:
    """Row maps that `shape` applies, in order; with `greedy` the last one puts all mass on the likeliest symbol."""
    maps: list[RowMap] = []
    if temperature_ != 1.0:
        maps.append(temperature(temperature_))
    if top_p_ < 1.0:
        maps.append(top_p(top_p_) if delta is None else lowered_top_p(top_p_, delta))
    if greedy:
        maps.append(likeliest)
    return tuple(maps)
