"""Training of image tokenizers.

Shapes: N vectors of a batch, K codes, E width of a code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder, perplexity
from fewstep.backbones.base import BACKBONES
from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, RoleSpec, StepContext
from fewstep.runtime.streams import Randomness, integers


class Codebook:
    """Codes as moving averages of the vectors that chose them (arXiv 1711.00937, appendix A.1).

    N_k <- g N_k + (1 - g) n_k and m_k <- g m_k + (1 - g) sum of the n_k vectors that chose k; code k is m_k / N_k.
    A code with N_k below `restart` times the mean restarts at a random vector of the batch, with the mean as its N_k
    (after arXiv 2005.00341, 3.1).

    Args:
        counts: N [K].
        sums: m [K, E].
    """

    def __init__(self, counts: Tensor, sums: Tensor, *, decay: float, restart: float) -> None:
        self.counts, self.sums, self.decay, self.restart = counts, sums, decay, restart

    @torch.no_grad()
    def update(self, codes: Tensor, vectors: Tensor, chosen: Tensor, generator: Randomness) -> int:
        """Update codes [K, E] in place from vectors [N, E] and the code that each chose [N].

        Args:
            generator: a single stream.

        Returns:
            Number of codes that restarted.
        """
        one_hot = (chosen[:, None] == torch.arange(len(codes), device=codes.device)).to(vectors.dtype)
        self.counts.lerp_(one_hot.sum(0), 1 - self.decay)
        self.sums.lerp_(one_hot.T @ vectors, 1 - self.decay)
        mean = self.counts.mean()
        dead = (self.counts < self.restart * mean).nonzero()[:, 0]
        rows = integers(len(vectors), (1, len(codes)), generator, device=vectors.device)[0, dead]
        self.counts[dead], self.sums[dead] = mean, vectors[rows] * mean
        used = self.counts[:, None] > 0  # without restarts some codes may have no vectors yet
        codes.copy_(torch.where(used, self.sums / self.counts[:, None].where(used, 1), codes))
        return len(dead)


@OBJECTIVES.register("vq")
class Vq(Objective):
    """Image tokenizer: |x - D(e)|^2 + beta |E(x) - e|^2, e the nearest code, with straight-through gradients.

    VQ-VAE (arXiv 1711.00937, equation 3), pixels in [-1, 1], mean squares. Moving averages update the codebook in the
    place of that equation's second term, and unused codes restart. The student is an autoencoder (backbone
    `vq_autoencoder`); data `vq_tokens` use the trained one.
    """

    roles: ClassVar = {"student": RoleSpec(network=NetworkAutoencoder)}
    per_token = False
    shardable = False

    class Config(ComponentConfig):
        type: Literal["vq"] = "vq"
        commitment: float = Field(0.25, ge=0, description="weight of the encoder's distance to its codes (beta)")
        decay: float = Field(0.99, ge=0, lt=1, description="decay of the codes' moving averages (g)")
        restart: float = Field(
            0.1, ge=0, lt=1, description="codes chosen less often than this share of the mean restart; 0: never"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if not issubclass(BACKBONES.get(recipe.backbone.type).cls, Autoencoder):
                fitting = ", ".join(entry.name for entry in BACKBONES.entries() if issubclass(entry.cls, Autoencoder))
                yield (
                    "type",
                    f"a tokenizer needs a backbone that gives images back, not {recipe.backbone.type}: {fitting}",
                )
            if recipe.label_input is not None:
                yield "type", "a tokenizer is not conditioned on labels; remove label_input"
            if recipe.start_from:
                yield "type", "a tokenizer's codes are averages that start with its training; remove start_from"
            if recipe.evaluate.metrics:
                yield "type", "a tokenizer draws no samples to score; set evaluate.metrics to []"

    config: Config

    def setup(self, ctx: StepContext) -> None:
        student = ctx.roles["student"]
        assert isinstance(student, NetworkAutoencoder)
        zeros = torch.zeros_like(student.backbone.codebook, requires_grad=False)
        c = self.config
        self.codebook = Codebook(zeros[:, 0].clone(), zeros, decay=c.decay, restart=c.restart)
        self.restarts = 0
        self._assignments: list[tuple[Tensor, Tensor]] = []

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        student = ctx.roles["student"]
        assert isinstance(student, NetworkAutoencoder)
        out = student.reconstruct(batch.x0)
        vectors = out.vectors.float()
        codebook = student.backbone.codebook.detach()
        error = (out.output.float() - out.values).square().mean()
        commitment = (vectors - codebook[out.codes]).square().mean()
        self._assignments.append((vectors.detach().flatten(0, -2), out.codes.flatten()))
        metrics = {
            "reconstruction": error.detach(),
            "commitment": commitment.detach(),
            "perplexity": perplexity(out.codes, len(codebook)),
            "restarts": torch.tensor(float(self.restarts), device=error.device),
        }
        return LossOutput(4 * error + self.config.commitment * commitment, metrics)

    def after_step(self, phase: Phase, ctx: StepContext) -> None:
        student = ctx.roles["student"]
        assert isinstance(student, NetworkAutoencoder)
        vectors, chosen = (ctx.ranks.joined(torch.cat(parts)) for parts in zip(*self._assignments, strict=True))
        self._assignments.clear()
        codes = student.backbone.codebook.detach()
        self.restarts = self.codebook.update(codes, vectors, chosen, ctx.generators["sample"])

    def state_dict(self) -> dict[str, object]:
        return {"counts": self.codebook.counts, "sums": self.codebook.sums, "restarts": self.restarts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.codebook.counts.copy_(state["counts"])
        self.codebook.sums.copy_(state["sums"])
        self.restarts = state["restarts"]
