"""The table of sizes in docs/backbones.md, counted. `python tests/docs/size_table.py` rewrites it.

Floating-point operations are those of a forward pass of one sample, trunk and head, as torch counts them (a
multiplication and an addition are two), over its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.recipe import load_recipe
from fewstep.recipe.shipped import shipped_recipes

PAGE = Path(__file__).resolve().parents[2] / "docs/backbones.md"
START = "<!-- sizes, written by tests/docs/size_table.py -->\n"
END = "<!-- end of sizes -->\n"


@dataclass(frozen=True)
class Size:
    """The backbone of a masked recipe over V symbols and L tokens."""

    recipe: str
    vocab: int
    length: int
    grid: tuple[int, int, int] | None = None
    changes: tuple[str, ...] = ()


SMALL = (
    Size("markov-teacher", 16, 32),
    Size("markov-block-teacher", 16, 32),
    Size("digits-small", 16, 64, (8, 8, 1)),
    Size("digits-teacher", 16, 64, (8, 8, 1)),
    Size("digits-image-dit", 16, 64, (8, 8, 1)),
    Size("digits-uvit", 16, 64, (8, 8, 1)),
    Size("digits-unet", 16, 64, (8, 8, 1)),
    Size("digits-vq-teacher", 64, 16, (4, 4, 1)),
    Size("text-teacher", 96, 128),
    Size("text-dit", 96, 128),
    Size("text-ar", 96, 128),
    Size("mnist-teacher", 4, 196, (14, 14, 1)),
    Size("cifar10-teacher", 16, 192, (8, 8, 3)),
    Size("cifar10-vq-teacher", 512, 64, (8, 8, 1)),
)
LARGE = (
    Size("cifar10-full-teacher", 256, 3072, (32, 32, 3)),
    Size("tinystories-teacher", 4096, 256),
    Size("openwebtext-teacher", 50_257, 1024),
    Size("openwebtext-teacher", 50_257, 1024, changes=("backbone={type: dit, width: 768, depth: 12, heads: 12}",)),
)
"""Counting one of these takes seconds."""


def row(size: Size) -> str:
    """A line of the table."""
    recipe = load_recipe(shipped_recipes()[size.recipe], size.changes).recipe
    tokens = TokenSpace(size.vocab + 1, size.vocab, size.length, size.grid)
    backbone = BACKBONES.build(recipe.backbone, tokens=tokens).eval()
    x = torch.zeros(1, size.length, dtype=torch.long)
    # Fused attention is not counted on every device; as matrix products it is.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        hidden = backbone(x, torch.zeros(1), **({"context": x} if backbone.uses_context else {}))
        backbone.head(hidden[0])
    shape = f"{size.length:,}" if size.grid is None else f"{size.length:,} ({' x '.join(map(str, size.grid))})"
    name = " with ".join(f"`{part}`" for part in (size.recipe, *size.changes))
    figures = (backbone.num_parameters() / 1e6, counter.get_total_flops() / size.length / 1e6)
    cells = [name, f"`{recipe.backbone.type}`", f"{size.vocab:,}", shape, *map(significant, figures)]
    return f"| {' | '.join(cells)} |"


def significant(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rewritten(text: str, sizes: tuple[Size, ...] = (*SMALL, *LARGE)) -> str:
    """The page with the table as it should be."""
    before, rest = text.split(START)
    head = "| recipe | backbone | V | L | parameters, M | MFLOP a token |\n|---|---|---:|---|---:|---:|\n"
    table = "".join(f"{row(size)}\n" for size in sizes)
    return f"{before}{START}\n{head}{table}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
