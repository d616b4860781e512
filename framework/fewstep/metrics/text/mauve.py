"""MAUVE: how far the laws of samples and of real text lie apart, as a frontier of divergences (extra `mauve`).

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
    """MAUVE of samples against as many real ones, from 0 to 1 (Pillutla et al. 2021, arXiv 2102.01454, eq. 3).

    Hidden states of a reference model at a sample's end are clustered; P and Q are the shares of real samples and of
    samples in the clusters, and the value is the area under (exp(-c KL(Q|R)), exp(-c KL(P|R))) over all mixtures R of
    P and Q, as the authors' package mauve-text computes it. `mauve_star` adds half a count to each share (Pillutla et
    al. 2023), which is less noisy for few samples.

    Figures compare only for the same reference, number of samples, clusters and c. With few samples even real ones are
    far below 1: judge by their row. Blind to what the reference's hidden state at the end has forgotten.
    """

    directions: ClassVar = {"mauve": "higher", "mauve_star": "higher"}

    class Config(ReferenceConfig):
        type: Literal["mauve"] = "mauve"
        buckets: int | None = Field(None, ge=2, description="clusters; a tenth of the number of samples if left out")
        scaling: float = Field(5.0, gt=0, description="c of the paper: larger ones tell laws apart that are far away")

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
        found = mauve.compute_mauve(
            p_features=self._features(real).numpy(),
            q_features=self._features(samples).numpy(),
            num_buckets=buckets,
            mauve_scaling_factor=self.config.scaling,
            verbose=False,
        )
        if found.p_hist.tolist() == found.q_hist.tolist():
            # The curve is then the corner (1, 1) alone, and the package's order of equal points cuts it off.
            return {"mauve": 1.0, "mauve_star": 1.0}
        return {"mauve": float(found.mauve), "mauve_star": float(found.mauve_star)}

    @torch.no_grad()
    def _features(self, tokens: Tensor) -> Tensor:
        """Hidden states of the reference, float32 [N, D] on the CPU."""
        parts = self.reference.encode(tokens).split(self.config.batch_size)
        return torch.cat([self.reference.features(part).float().cpu() for part in parts])
