"""Two denoisers of one walk: a student first, its teacher for the last steps."""

from __future__ import annotations

from torch import Tensor

from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.runtime.streams import Randomness


class HybridDenoiser(DenoiserAround):
    """Predicts with `denoiser`, or with `closer` while `use_closer` is set; evaluations of both are counted.

    Raises:
        ValueError: only one of the two is conditioned on labels.
    """

    def __init__(self, denoiser: Denoiser, closer: Denoiser) -> None:
        super().__init__(denoiser)
        self.closer = closer
        self.use_closer = False
        if denoiser.conditioned_on_labels != closer.conditioned_on_labels:
            raise ValueError("only one of the two denoisers is conditioned on labels")

    @property
    def takes_token_times(self) -> bool:
        return self.denoiser.takes_token_times and self.closer.takes_token_times

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        denoiser = self.closer if self.use_closer else self.denoiser
        return denoiser.predict(x_t, t, s, cond, generator)
