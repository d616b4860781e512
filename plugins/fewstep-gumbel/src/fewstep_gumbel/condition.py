"""The condition of a prediction with the noise that decides its tokens.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from torch import Tensor

from fewstep.predictions.condition import Condition


@dataclass(frozen=True)
class NoiseCondition(Condition):
    """A condition that also has Gumbel noise.

    Args:
        noise: float [B, L, V]; None if the network is to draw it.
    """

    noise: Tensor | None = None

    def select(self, rows: Tensor | slice) -> NoiseCondition:
        return with_noise(super().select(rows), None if self.noise is None else self.noise[rows])

    def split(self, parts: int) -> list[Condition]:
        noises = [None] * parts if self.noise is None else self.noise.chunk(parts)
        return [with_noise(cond, noise) for cond, noise in zip(super().split(parts), noises, strict=True)]

    def repeat(self, times: int) -> NoiseCondition:
        return with_noise(super().repeat(times), None if self.noise is None else self.noise.repeat(times, 1, 1))


def with_noise(cond: Condition, noise: Tensor | None) -> NoiseCondition:
    """The condition with this noise, float [B, L, V]."""
    if isinstance(cond, NoiseCondition):
        return replace(cond, noise=noise)
    return NoiseCondition(**{field.name: getattr(cond, field.name) for field in fields(cond)}, noise=noise)


def noise_of(cond: Condition) -> Tensor | None:
    """The noise of a condition, if it has any."""
    return cond.noise if isinstance(cond, NoiseCondition) else None
