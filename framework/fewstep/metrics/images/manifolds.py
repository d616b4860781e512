"""Manifolds of features by nearest neighbours: precision, recall, density and coverage.

A set's manifold is the union of balls, one around each of its points, that reach to its k-th nearest neighbour within
the set. Shapes: N samples, M real samples, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 512
"""Points whose distances to all other points are in memory at once."""


def radii(points: Tensor, k: int) -> Tensor:
    """Distance of each point [N, F] to its k-th nearest other one (float64 [N])."""
    if len(points) <= k:
        raise ValueError(f"{len(points)} points have no {k}-th nearest neighbour")
    # k + 1, since the nearest point of all is the point itself.
    parts = [distances(part, points).kthvalue(k + 1, dim=1).values for part in points.split(_CHUNK)]
    return torch.cat(parts)


def precision(samples: Tensor, real: Tensor, k: int) -> float:
    """Share of samples [N, F] within the manifold of real ones [M, F] (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Recall is the same function with its arguments exchanged.
    """
    reach = radii(real, k)
    inside = [(distances(part, real) <= reach).any(1) for part in samples.split(_CHUNK)]
    return float(torch.cat(inside).double().mean())


def density(samples: Tensor, real: Tensor, k: int) -> float:
    """Mean over samples of the number of real balls that hold it, over k (Naeem et al. 2020, eq. 3); may exceed 1."""
    reach = radii(real, k)
    holding = [(distances(part, real) <= reach).sum(1) for part in samples.split(_CHUNK)]
    return float(torch.cat(holding).double().mean()) / k


def coverage(samples: Tensor, real: Tensor, k: int) -> float:
    """Share of real samples whose ball holds a sample (Naeem et al. 2020, eq. 4)."""
    reach = radii(real, k)
    nearest = torch.cat([distances(part, samples).amin(1) for part in real.split(_CHUNK)])
    return float((nearest <= reach).double().mean())


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances [N, M], float64; exact for equal points."""
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
