"""Classifiers of noised tokens: p(class of the clean sample | z_t).

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
            x_t: noised ids [B, L], or one-hot rows [B, L, S] for gradients by the tokens.
            t: times [B].
        """


class NetworkClassifier(BackboneNetwork):
    """A backbone whose head reads the mean of the hidden states and scores classes.

    It predicts no tokens. Its backbone has an output vocabulary of C symbols.
    """

    evaluated_by: ClassVar[tuple[str, ...]] = ("log_probs",)
    refusal: ClassVar[str] = (
        "a classifier of noised tokens draws no samples; a sampler names its run as `classifier.run`"
    )

    def log_probs(self, x_t: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
        """Log-probabilities of classes [B, C]; with a label input also given `cond.labels`. See `NoisedClassifier`."""
        self._count(x_t)
        tokens = x_t if x_t.ndim == 2 else x_t[..., 0]  # only the shape is read
        hidden = self.backbone(x_t, t, residual=self._residual(tokens, t, None, cond, None))
        return self.class_scores(hidden.mean(1)).float().log_softmax(-1)

    def class_scores(self, hidden: Tensor) -> Tensor:
        """Scores of classes [B, C] from mean hidden states [B, D]."""
        scores: Tensor = self.backbone.head(hidden)
        return scores

    def _initial_weights(self, other: BackboneNetwork) -> dict[str, Tensor]:
        """All weights of another classifier; of a network that predicts tokens, all except the head's."""
        weights = super()._initial_weights(other)
        if isinstance(other, NetworkClassifier):
            return weights
        own = self.backbone.state_dict()
        return {name: own[name] if name.startswith("head.") else value for name, value in weights.items()}


class LabelClassifier(NetworkClassifier):
    """A classifier by the labels of the data."""

    reads_labels: ClassVar[bool] = True
    description: ClassVar[str] = "A classifier of noised samples"
    next_step: ClassVar[str] = "name it in the sampler of another recipe, as `classifier: {{run: {run}}}`"

    @classmethod
    def head_size(cls, blueprint: Blueprint) -> int:
        return blueprint.dataset.classes
