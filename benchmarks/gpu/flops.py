"""FLOPs of the text backbone `dit`, counted by hand: products of matrices only, two a multiplication and addition.

A forward pass of a token takes F in the trunk and H in the head. A backward pass takes twice a forward pass. The head
runs at the share rho of the tokens. So a denoising step takes 3 (F + rho H) a token, and a step of D-MMD 5 (F + rho H):
student and auxiliary forward, teacher forward, and one of the two backward. What is computed once a sample or once a
batch (the time's embedding and adaLN) is left out.

Shapes: L tokens, V vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

PASSES = {"denoising": 3, "dmmd": 5, "dmmd simultaneous": 7, "sdtt": 5, "consistency": 4}
"""Forward passes that a step costs: 3 of a network that is trained, 1 of any other. SDTT asks its teacher twice."""

BF16_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""FLOP/s of dense bf16 products by datasheet, by part of the GPU's name."""


@dataclass(frozen=True)
class Shape:
    """Size of a `dit`, whose MLP is four times as wide as the rest."""

    width: int
    depth: int
    heads: int

    @property
    def config(self) -> dict[str, object]:
        """Settings of the backbone."""
        return {"type": "dit", "width": self.width, "depth": self.depth, "heads": self.heads}

    def trunk(self, length: int) -> int:
        """F: 12 D^2 weights a block, and attention's two products with L keys."""
        return self.depth * (24 * self.width**2 + 4 * length * self.width)

    def head(self, vocab: int) -> int:
        """H."""
        return 2 * self.width * vocab

    def step(self, work: str, *, tokens: int, length: int, vocab: int, share: float) -> float:
        """FLOPs of an optimiser step of `work` on a number of tokens, with the head at a share of them."""
        return PASSES[work] * tokens * (self.trunk(length) + share * self.head(vocab))


def attention(batch: int, length: int, heads: int, channels: int) -> tuple[int, int]:
    """FLOPs of attention: forward two products, backward five."""
    product = 2 * batch * heads * length**2 * channels
    return 2 * product, 5 * product


def known_peak(hardware: str) -> float | None:
    """Dense bf16 peak of a GPU by its name, or None. Cards of Hopper have another one than the SXM part."""
    if "PCIe" in hardware or "NVL" in hardware:
        return None
    return next((peak for name, peak in BF16_PEAKS.items() if name in hardware), None)
