"""Classifiers of noised tokens: which class is it that will come of them?

Shapes: B batch, L tokens, S states, D width, C classes.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

from fewstep.denoisers.base import NOTHING, Blueprint
from fewstep.denoisers.network import BackboneNetwork
from fewstep.predictions.condition import Condition


class NoisedClassifier(Protocol):
    """p(y | z_t)."""

    def log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log-probabilities of classes [B, C].

        Args:
            x_t: noised ids [B, L], or one-hot rows [B, L, S] to take a gradient by.
            t: times [B].
        """


class NetworkClassifier(BackboneNetwork):
    """A backbone whose head reads the mean of the hidden states and scores classes.

    It predicts no tokens. Its backbone is made for a vocabulary of C symbols.
    """

    refusal: ClassVar[str] = (
        "a classifier of noised tokens draws no samples; a sampler names its run as `classifier.run`"
    )

    def log_probs(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Log-probabilities of classes [B, C], given `cond` if it is told labels; see `NoisedClassifier`."""
        self._count(x_t)
        tokens = x_t if x_t.ndim == 2 else x_t[..., 0]  # only their shape is read
        hidden = self.backbone(x_t, t, residual=self._residual(tokens, t, None, cond, None))
        scores: Tensor = self.backbone.head(hidden.mean(1))
        return scores.float().log_softmax(-1)

    def _taken_over(self, other: BackboneNetwork) -> dict[str, Tensor]:
        """All of another classifier; of a network that predicts tokens all but the head."""
        theirs = super()._taken_over(other)
        if isinstance(other, NetworkClassifier):
            return theirs
        own = self.backbone.state_dict()
        return {name: own[name] if name.startswith("head.") else value for name, value in theirs.items()}


class LabelClassifier(NetworkClassifier):
    """A classifier of the labels of the data."""

    reads_labels: ClassVar[bool] = True
    description: ClassVar[str] = "A classifier of noised samples"
    next_step: ClassVar[str] = "name it in the sampler of another recipe, as `classifier: {{run: {run}}}`"

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        return blueprint.dataset.classes


class Discriminator(NetworkClassifier):
    """A classifier of two kinds of samples: those of a student (0) and data (1)."""

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        return 2
