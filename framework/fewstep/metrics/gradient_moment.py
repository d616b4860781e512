"""Gradient Moment: whether a reference model would learn anything else from samples than from data.

Shapes: B batches of samples, P parameters of the reference, K numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.autoregressive import token_nll
from fewstep.errors import UserError
from fewstep.metrics.base import METRICS
from fewstep.metrics.reference import ReferenceConfig, ReferenceMetric

_SKETCH = 1 << 16
"""Numbers that are kept of each batch's gradient, for the standard error alone."""


@METRICS.register("gradient_moment")
class GradientMoment(ReferenceMetric):
    """|E_samples[grad log p(x)] - E_data[grad log p(x)]|^2 for a reference p (arXiv 2603.20155, section 5, eq. 14).

    log p is the mean over tokens and the gradient is by all weights of p. Zero if p cannot tell samples from data to
    first order. Estimated without bias, so it may come out below zero, from all pairs of independent batches:
    (|sum d|^2 - sum |d|^2) / (B (B - 1)), with d the difference of the gradients of one batch of samples and one of
    data. `_samples` and `_data` are the same without subtracting the other, which for a reference that was trained to
    the end on endless data would be 0 for data. It says nothing about samples of the reference itself, and is fooled
    by them: sharpened ones, which lack variety, score low.
    """

    directions: ClassVar = {
        "gradient_moment": "lower",
        "gradient_moment_stderr": "info",
        "gradient_moment_samples": "info",
        "gradient_moment_data": "info",
    }

    class Config(ReferenceConfig):
        type: Literal["gradient_moment"] = "gradient_moment"
        batches: int = Field(20, ge=4, description="independent batches on each side, as many as there are samples for")

    def compute(self) -> dict[str, float]:
        samples = torch.cat(self.seen)
        real = self.real(len(samples))
        batches, size = self.config.batches, min(len(samples), len(real)) // self.config.batches
        if not size:
            raise UserError(
                f"gradient_moment: {batches} batches need as many samples at least; there are {len(samples)}, "
                f"and {len(real)} real ones; lower `batches`"
            )
        weights = [weight.requires_grad_(True) for weight in self.reference.parameters()]
        moments = {name: PairMoment() for name in ("", "_samples", "_data")}
        for first in range(0, batches * size, size):
            ours, theirs = (self._gradient(rows[first : first + size], weights) for rows in (samples, real))
            moments[""].add(ours - theirs)
            moments["_samples"].add(ours)
            moments["_data"].add(theirs)
        self.reference.requires_grad_(False)
        found = {f"gradient_moment{name}": moment.value() for name, moment in moments.items()}
        found["gradient_moment_stderr"] = moments[""].standard_error()
        return {name: found[name] for name in self.directions}

    def _gradient(self, tokens: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Gradient of the mean log-likelihood of a token, [P]; float64."""
        total = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64)
        for part in tokens.split(self.config.batch_size):
            nll = token_nll(self.reference, part.to(self.reference.device)).sum()
            grads = torch.autograd.grad(-nll / tokens.numel(), weights, allow_unused=True, materialize_grads=True)
            total += torch.cat([grad.flatten().double().cpu() for grad in grads])
        return total


class PairMoment:
    """|E d|^2 from independent vectors d [P], without keeping them."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = torch.zeros(())
        self.squares = 0.0
        self.sketches: list[Tensor] = []

    def add(self, vector: Tensor) -> None:
        """Another draw of d, float64."""
        self.count += 1
        self.sum = self.sum + vector
        self.squares += float(vector.square().sum())
        self.sketches.append(sketch(vector))

    def value(self) -> float:
        """The mean of <d_i, d_j> over all pairs i != j."""
        return (float(self.sum.square().sum()) - self.squares) / (self.count * (self.count - 1))

    def standard_error(self) -> float:
        """Of `value`, from the inner products of the sketches."""
        vectors = torch.stack(self.sketches)
        return pair_mean_error(vectors @ vectors.T)


def pair_mean_error(products: Tensor) -> float:
    """Standard error of the mean of <d_i, d_j> over pairs i != j, given all products [B, B].

    Hoeffding's variance of a U-statistic of two arguments, (4 (B - 2) a + 2 b) / (B (B - 1)), with a the covariance of
    two products that share one vector and b the variance of a product.
    """
    count = len(products)
    pairs = products - products.diagonal().diag()
    number = count * (count - 1)
    mean_square = float((pairs.sum() / number).square())
    squares = float(pairs.square().sum())
    shared = (float(pairs.sum(1).square().sum()) - squares) / (number * (count - 2)) - mean_square
    alone = squares / number - mean_square
    return float((4 * (count - 2) * max(shared, 0.0) + 2 * max(alone, 0.0)) / number) ** 0.5


def sketch(vector: Tensor, size: int = _SKETCH) -> Tensor:
    """K numbers [K] whose inner products are those of the vectors [P] on average (count sketch); all of a short vector.

    Every number of the vector is added, with a random sign, to a random place; both are the same for all vectors.
    """
    if len(vector) <= size:
        return vector
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(size, (len(vector),), generator=generator)
    signs = torch.randint(2, (len(vector),), generator=generator) * 2 - 1
    return torch.zeros(size, dtype=vector.dtype).index_add_(0, places, vector * signs)
