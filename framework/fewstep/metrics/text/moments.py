"""Running sums over pairs of gradients, for Gradient Moment and its standard error; no gradient is stored.

Shapes: B pairs of batches, P weights of the reference in several tensors, K numbers of a sketch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

_SKETCH = 1 << 16
"""Numbers stored of each pair's difference, for the standard error alone."""
_CHUNK = 1 << 22
"""Weights whose places in a sketch are in memory at once."""

Vector = Sequence[Tensor]
"""A vector [P] in several tensors."""


class GradientMoments:
    """Squared lengths of E[ours], E[theirs] and E[ours - theirs], from independent pairs (ours, theirs).

    It holds two vectors of length P, three numbers, and K numbers a pair. Two objects can be merged, and those of the
    processes of a group can be gathered, so pairs may be divided among processes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: tuple[list[Tensor], list[Tensor]] | None = None
        self.squares = torch.zeros(3, dtype=torch.float64)
        """Sums of |ours - theirs|^2, |ours|^2 and |theirs|^2."""
        self.sketches: list[Tensor] = []

    def add(self, ours: Vector, theirs: Vector) -> None:
        """Add another independent pair."""
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        self.count += 1
        self.squares += torch.tensor([_inner(v, v) for v in (differences, ours, theirs)], dtype=torch.float64)
        self.sketches.append(sketch(differences))
        if self.sums is None:
            self.sums = [a.clone() for a in ours], [b.clone() for b in theirs]
        else:
            self._add_sums(ours, theirs)

    def merge(self, other: GradientMoments) -> None:
        """Add the pairs of another object."""
        if other.sums is None:
            return
        self.count += other.count
        self.squares += other.squares
        self.sketches += other.sketches
        if self.sums is None:
            self.sums = [a.clone() for a in other.sums[0]], [b.clone() for b in other.sums[1]]
        else:
            self._add_sums(*other.sums)

    def gather(self) -> None:
        """Sum over all processes of torch's default group, each of which must have at least one pair."""
        assert self.sums is not None, "a process without a pair"
        device = self.sums[0][0].device
        facts = torch.cat((torch.tensor([self.count], dtype=torch.float64), self.squares)).to(device)
        dist.all_reduce(facts)
        for tensor in (*self.sums[0], *self.sums[1]):
            dist.all_reduce(tensor)
        counts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
        dist.all_gather(counts, torch.tensor([self.count], device=device))
        own = torch.stack(self.sketches).to(device)
        # all_gather needs tensors of one shape, so processes with fewer pairs pad theirs.
        padded = own.new_zeros(max(int(n) for n in counts), own.shape[1])
        padded[: len(own)] = own
        parts = [torch.zeros_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        self.sketches = [row for part, n in zip(parts, counts, strict=True) for row in part[: int(n)].cpu()]
        self.count, self.squares = int(facts[0]), facts[1:].cpu()

    def values(self) -> tuple[float, float, float]:
        """Unbiased |E[ours - theirs]|^2, |E[ours]|^2 and |E[theirs]|^2: the mean of <d_i, d_j> over pairs i != j."""
        assert self.sums is not None, "no pair was added"
        ours, theirs = self.sums
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        totals = [_inner(v, v) for v in (differences, ours, theirs)]
        pairs = self.count * (self.count - 1)
        first, second, third = ((a - float(b)) / pairs for a, b in zip(totals, self.squares, strict=True))
        return first, second, third

    def standard_error(self) -> float:
        """Standard error of the first of `values`, from the inner products of the sketches."""
        vectors = torch.stack(self.sketches).double()
        return pair_mean_error(vectors @ vectors.T)

    def _add_sums(self, ours: Vector, theirs: Vector) -> None:
        assert self.sums is not None
        for total, vector in zip(self.sums, (ours, theirs), strict=True):
            for a, b in zip(total, vector, strict=True):
                a += b


def _inner(a: Vector, b: Vector) -> float:
    """<a, b>, summed in the tensors' own precision within a tensor and in double precision over them."""
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


def pair_mean_error(products: Tensor) -> float:
    """Standard error of the mean of <d_i, d_j> over pairs i != j, given all products [B, B].

    Hoeffding's variance of a U-statistic of two arguments, f = (4 (B - 2) a + 2 b) / (B (B - 1)), with a the covariance
    of two products that share one vector and b the variance of a product. Both subtract the square of the mean, whose
    expectation is the square of the true mean plus f itself. The result is therefore divided by
    1 - (4 (B - 2) + 2) / (B (B - 1)). It is unbiased if a > 0, and on the safe side where a is about 0 (no signal).
    """
    count = len(products)
    pairs = products - products.diagonal().diag()
    number = count * (count - 1)
    mean_square = float((pairs.sum() / number).square())
    squares = float(pairs.square().sum())
    shared = (float(pairs.sum(1).square().sum()) - squares) / (number * (count - 2)) - mean_square
    alone = squares / number - mean_square
    terms = 4 * (count - 2) + 2
    return ((4 * (count - 2) * max(shared, 0.0) + 2 * max(alone, 0.0)) / (number - terms)) ** 0.5


def sketch(vector: Vector, size: int = _SKETCH) -> Tensor:
    """K numbers [K] whose inner products are those of the vectors [P] on average (count sketch).

    A vector of at most K numbers is its own sketch. Otherwise every number is added, with a random sign, to a random
    place; signs and places are the same for all vectors.
    """
    if sum(part.numel() for part in vector) <= size:
        return torch.cat([part.flatten() for part in vector]).cpu()
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(size, dtype=vector[0].dtype, device=vector[0].device)
    for part in (chunk for tensor in vector for chunk in tensor.flatten().split(_CHUNK)):
        places = torch.randint(size, (len(part),), generator=generator)
        signs = torch.randint(2, (len(part),), generator=generator, dtype=torch.int8) * 2 - 1
        total.index_add_(0, places.to(part.device), part * signs.to(part.device))
    return total.cpu()
