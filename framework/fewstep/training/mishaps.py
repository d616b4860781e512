"""Steps that must not change the weights: losses or gradients that are not finite, and spikes of the loss."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from fewstep.core.errors import OperationError
from fewstep.recipe.models import Mishap, TrainSection

_NORMAL = 1.4826
"""Standard deviation of normal values over their median absolute deviation."""


@dataclass(frozen=True)
class Found:
    """A mishap: what happened, and what the recipe does about it."""

    what: str
    action: Mishap


class Mishaps:
    """Judges each step before its update; counts those that were not made.

    A loss is a spike if it lies more than `factor` standard deviations above the median of the last `window` losses of
    its phase. The deviation is estimated by the median absolute deviation, which spikes hardly change.
    """

    def __init__(self, train: TrainSection) -> None:
        self.train = train
        self.count = 0
        self._losses: dict[str, deque[float]] = {}

    @property
    def needs_each_step(self) -> bool:
        """Whether the host must read the loss of each step before its update; else it may ask later."""
        return self.train.non_finite != "stop" or self.train.spike is not None

    def judge(self, phase: str, loss: float, norms: Mapping[str, float]) -> Found | None:
        """The mishap of a step, if any.

        Args:
            phase: name of the phase.
            loss: its loss.
            norms: norms of the gradients, by role.
        """
        if not math.isfinite(loss):
            return Found(f"loss is {loss} in phase '{phase}'", self.train.non_finite)
        for name, norm in norms.items():
            if not math.isfinite(norm):
                return Found(f"gradient of '{name}' is {norm} in phase '{phase}'", self.train.non_finite)
        return self._spike(phase, loss)

    def _spike(self, phase: str, loss: float) -> Found | None:
        spike = self.train.spike
        if spike is None:
            return None
        losses = self._losses.setdefault(phase, deque(maxlen=spike.window))
        if len(losses) == spike.window:
            middle = median(losses)
            deviation = _NORMAL * median(abs(value - middle) for value in losses)
            if loss - middle > spike.factor * max(deviation, 1e-12):
                return Found(
                    f"loss {loss:.4g} of phase '{phase}' is a spike (median of the last {spike.window}: {middle:.4g}, "
                    f"deviation {deviation:.2g})",
                    spike.action,
                )
        losses.append(loss)
        return None

    def spend(self, found: Found, step: int) -> str:
        """Count a mishap that does not end the training; returns how many there were.

        Raises:
            OperationError: the budget is used up.
        """
        self.count += 1
        if self.count > self.train.mishap_budget:
            raise OperationError(
                f"{found.what} at step {step}, after {self.train.mishap_budget} such steps (train.mishap_budget); "
                "stopped; a lower optim.lr or a smaller optim.clip may help"
            )
        return f"{self.count} of {self.train.mishap_budget}"

    def state_dict(self) -> dict[str, object]:
        """State for a resumed run."""
        return {"count": self.count, "losses": {phase: list(losses) for phase, losses in self._losses.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.count = int(state["count"])
        window = self.train.spike.window if self.train.spike else None
        self._losses = {phase: deque(losses, maxlen=window) for phase, losses in state["losses"].items()}
