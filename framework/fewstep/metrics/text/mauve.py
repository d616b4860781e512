"""MAUVE: distance between the distributions of samples and of real text, by a frontier of divergences (extra `mauve`).

Shapes: N samples, D width of the reference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.metrics.base import METRICS, ToScore
from fewstep.metrics.reference import ReferenceConfig, ReferenceMetric


@METRICS.register("mauve")
class Mauve(ReferenceMetric):
    """MAUVE against the same number of real samples, from 0 to 1 (Pillutla et al. 2021, arXiv 2102.01454, eq. 3).

    The reference's hidden states at the ends of samples are clustered. P and Q are the shares of real samples and of
    samples in the clusters. The value is the area under (exp(-c KL(Q|R)), exp(-c KL(P|R))) over all mixtures R of P and
    Q, as the authors' package mauve-text computes it. `mauve_star` adds half a count to each share (Pillutla et al.
    2023), which is less noisy for few samples.

    Figures compare only for the same reference, number of samples, clusters and c. With few samples even real ones are
    far below 1, so judge by the row of real samples. The value is blind to information that the last hidden state
    lacks.
    """

    directions: ClassVar = {"mauve": "higher", "mauve_star": "higher"}
    words: ClassVar = {"mauve": "closeness to the data (MAUVE)"}

    class Config(ReferenceConfig):
        type: Literal["mauve"] = "mauve"
        buckets: int | None = Field(None, ge=2, description="clusters; a tenth of the number of samples if left out")
        scaling: float = Field(5.0, gt=0, description="c of the paper: larger values resolve distant distributions")

        def refuses(self, to_score: ToScore) -> str | None:
            if to_score.here:
                try:
                    import mauve  # noqa: F401
                except ImportError as error:
                    return f"it needs mauve-text ({error}): pip install 'fewstep[mauve]'"
            return None

    config: Config

    def compute(self) -> dict[str, float]:
        import mauve

        samples = self.samples
        real = self.real(len(samples))
        buckets = self.config.buckets or max(2, round(min(len(samples), len(real)) / 10))
        if min(len(samples), len(real)) < buckets:
            raise UserError(
                f"mauve: {len(samples)} samples and {len(real)} real ones are too few for {buckets} clusters; draw "
                "more, or lower `buckets`"
            )
        scores = mauve.compute_mauve(
            p_features=self._features(real).numpy(),
            q_features=self._features(samples).numpy(),
            num_buckets=buckets,
            mauve_scaling_factor=self.config.scaling,
            verbose=False,
        )
        if scores.p_hist.tolist() == scores.q_hist.tolist():
            # The curve is then the corner (1, 1) alone, and the package's order of equal points cuts it off.
            return {"mauve": 1.0, "mauve_star": 1.0}
        return {"mauve": float(scores.mauve), "mauve_star": float(scores.mauve_star)}

    @torch.no_grad()
    def _features(self, tokens: Tensor) -> Tensor:
        """Hidden states of the reference, float32 [N, D] on the CPU."""
        parts = self.reference.encode(tokens).split(self.config.batch_size)
        return torch.cat([self.reference.features(part).float().cpu() for part in parts])
