"""Gradient Moment: whether a reference model would learn the same from samples as from data.

Shapes: B batches of samples, P weights of the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch import distributed as dist

from fewstep.core.errors import UserError
from fewstep.likelihood.references import Reference
from fewstep.metrics.base import METRICS
from fewstep.metrics.reference import ReferenceConfig, ReferenceMetric
from fewstep.metrics.text.moments import GradientMoments
from fewstep.runtime.seeding import generator_for

_LAYER_BATCHES = 8
"""Batches of training samples that the scales of layers are estimated from."""


@METRICS.register("gradient_moment")
class GradientMoment(ReferenceMetric):
    """|E_samples[grad log p(x)] - E_data[grad log p(x)]|^2 for a reference p (arXiv 2603.20155, section 5, eq. 14).

    log p is the mean over tokens, and the gradient is with respect to all weights of p. The value is zero if p cannot
    tell samples from data to first order. The estimate is unbiased, so it may be negative. It uses all pairs of
    independent batches: (|sum d|^2 - sum |d|^2) / (B (B - 1)), with d the difference of the gradients of one batch of
    samples and one of data. `_samples` and `_data` are the same estimate of one side alone; `_data` would be 0 for a
    reference trained to convergence on endless data.

    Samples of the reference itself fool it: they score low even if the reference knows the data badly. A warning is
    printed if the generator has the reference's weights. The value is also blind to differences that the reference
    cannot see, such as long-range structure for a small one.

    Memory holds two vectors as long as the weights, and no gradient. In one torch.distributed group, whose processes
    all have the same samples, the pairs are divided among the processes.
    """

    directions: ClassVar = {
        "gradient_moment": "lower",
        "gradient_moment_stderr": "info",
        "gradient_moment_samples": "info",
        "gradient_moment_data": "info",
    }
    words: ClassVar = {"gradient_moment": "distance to the data (gradients)"}
    misled_by_own_samples: ClassVar[bool] = True

    class Config(ReferenceConfig):
        type: Literal["gradient_moment"] = "gradient_moment"
        batches: int = Field(20, ge=4, description="independent batches on each side")
        precondition: Literal["none", "layers"] = Field(
            "none",
            description="layers: count each layer in units of the variance of one training sample's gradient in it",
        )
        precision: Literal["double", "single"] = Field(
            "double", description="of the sums of gradients; single takes half the memory"
        )

    config: Config

    def compute(self) -> dict[str, float]:
        samples = self.samples
        real = self.real(len(samples))
        batches, size = self.config.batches, min(len(samples), len(real)) // self.config.batches
        if not size:
            raise UserError(
                f"gradient_moment: {batches} batches need at least {batches} samples; there are {len(samples)}, "
                f"and {len(real)} real ones; lower `batches`"
            )
        pairs = ((rows[first : first + size] for rows in (samples, real)) for first in range(0, batches * size, size))
        scales = self._layer_scales(size) if self.config.precondition == "layers" else None
        moments = gradient_moments(
            self.reference, pairs, batch_size=self.config.batch_size, dtype=self._dtype, scales=scales
        )
        moment, of_samples, of_data = moments.values()
        values = (moment, moments.standard_error(), of_samples, of_data)
        return dict(zip(self.directions, values, strict=True))

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.config.precision == "double" else torch.float32

    def _layer_scales(self, size: int) -> list[float]:
        """For each weight tensor 1 / the standard deviation of one training sample's gradient in its layer.

        They come from a fixed set of training samples, not from the scored ones, so products of different pairs stay
        unbiased.
        """
        order = torch.randperm(len(self.dataset.train), generator=generator_for(0, "gradient_moment/layers"))
        rows = self.dataset.train[order[: _LAYER_BATCHES * size]].long()
        gradients = [
            batch_gradient(self.reference, part, batch_size=self.config.batch_size, dtype=self._dtype)
            for part in rows.chunk(_LAYER_BATCHES)
        ]
        return layer_scales([name for name, _ in self.reference.network.named_parameters()], gradients, len(rows))


def gradient_moments(
    reference: Reference,
    pairs: Iterable[Iterable[Tensor]],
    *,
    batch_size: int = 100,
    dtype: torch.dtype = torch.float64,
    scales: Sequence[float] | None = None,
) -> GradientMoments:
    """Gradients of all pairs (samples, data), each a batch LongTensor [N, L], summed up.

    Within a torch.distributed group every process takes its share of the pairs and returns the sums over all.

    Args:
        scales: one factor for the gradient of each weight tensor.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    moments = GradientMoments()
    for index, pair in enumerate(pairs):
        if index % world != rank:
            continue
        of_samples, of_data = (batch_gradient(reference, rows, batch_size=batch_size, dtype=dtype) for rows in pair)
        for vector in (of_samples, of_data):
            for part, scale in zip(vector, scales or (), strict=False):
                part *= scale
        moments.add(of_samples, of_data)
    if world > 1:
        moments.gather()
    return moments


def batch_gradient(
    reference: Reference, samples: Tensor, *, batch_size: int = 100, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Gradient of the mean log-likelihood of a token over samples [N, L], by each weight tensor of the reference.

    Raises:
        UserError: the samples hold no token that is scored.
    """
    encoded = reference.encode(samples)
    if not encoded.tokens:
        raise UserError("gradient_moment: a batch of samples has no token to score; lower `batches`")
    weights = list(reference.network.parameters())
    totals = [torch.zeros_like(weight, dtype=dtype) for weight in weights]
    flags = [weight.requires_grad for weight in weights]
    reference.network.requires_grad_(True)
    try:
        for part in encoded.split(batch_size):
            with torch.enable_grad():
                likelihood = -reference.nll(part).sum() / encoded.tokens
                grads = torch.autograd.grad(likelihood, weights, allow_unused=True)
            for total, grad in zip(totals, grads, strict=True):
                if grad is not None:
                    total += grad
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
    return totals


def layer_scales(names: Sequence[str], gradients: Sequence[Sequence[Tensor]], samples: int) -> list[float]:
    """1 / the standard deviation of one sample's gradient within the layer that each weight tensor belongs to.

    Args:
        names: names of the tensors. Tensors whose names agree up to the first number form a layer; without a number,
            the tensors of one module do.
        gradients: mean gradients of equal batches, `samples` samples in all.
    """
    variances: dict[str, float] = {}
    for index, name in enumerate(names):
        parts = torch.stack([vector[index].double() for vector in gradients])
        variances[_layer(name)] = variances.get(_layer(name), 0.0) + float(parts.var(0).sum())
    size = samples / len(gradients)
    per_sample = [variances[_layer(name)] * size for name in names]
    return [variance**-0.5 if variance > 0 else 0.0 for variance in per_sample]


def _layer(name: str) -> str:
    """`trunk.blocks.3` of `trunk.blocks.3.attention.weight`, `head` of `head.weight`."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return ".".join(parts[:-1] if number is None else parts[: number + 1])
