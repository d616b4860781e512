"""Row maps that shape a prediction: temperature and top-p. Rows are normalised log-probabilities [N, V]."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.predictions.base import Prediction, RowMap


def temperature(value: float) -> RowMap:
    """p^(1/value), renormalised."""

    def apply(log_p: Tensor) -> Tensor:
        return (log_p / value).log_softmax(-1)

    return apply


def top_p(mass: float) -> RowMap:
    """Keep the smallest set of likeliest symbols that holds at least `mass`; the rest get probability 0."""

    def apply(log_p: Tensor) -> Tensor:
        return log_p.masked_fill(outside_top_p(log_p, mass), -float("inf")).log_softmax(-1)

    return apply


def lowered_top_p(mass: float, delta: float) -> RowMap:
    """Lower the logits of what top-p leaves out by `delta`, so that gradients stay bounded (arXiv 2603.20155, 3.3)."""

    def apply(log_p: Tensor) -> Tensor:
        return (log_p - delta * outside_top_p(log_p, mass)).log_softmax(-1)

    return apply


def likeliest(log_p: Tensor) -> Tensor:
    """All mass on the likeliest symbol of each row."""
    best = log_p.argmax(-1, keepdim=True)
    return torch.full_like(log_p, -float("inf")).scatter(-1, best, 0.0)


def outside_top_p(log_p: Tensor, mass: float) -> Tensor:
    """BoolTensor [N, V], true for the symbols that top-p leaves out; the likeliest always stays."""
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
) -> Prediction:
    """Temperature first, then top-p; 1.0 leaves a prediction as it is.

    Args:
        delta: lower the logits outside top-p by so much; None gives them probability 0.
    """
    for row_map in row_maps(temperature_=temperature_, top_p_=top_p_, delta=delta):
        prediction = prediction.shaped(row_map)
    return prediction


def row_maps(
    *, temperature_: float = 1.0, top_p_: float = 1.0, delta: float | None = None, greedy: bool = False
) -> tuple[RowMap, ...]:
    """What `shape` applies, one after the other; `greedy` leaves the likeliest symbol alone in the end."""
    maps: list[RowMap] = []
    if temperature_ != 1.0:
        maps.append(temperature(temperature_))
    if top_p_ < 1.0:
        maps.append(top_p(top_p_) if delta is None else lowered_top_p(top_p_, delta))
    if greedy:
        maps.append(likeliest)
    return tuple(maps)
