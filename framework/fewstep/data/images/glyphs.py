"""Printed digits and letters in the fonts that matplotlib ships: black-and-white pictures that anyone can read.

Shapes: N samples, S pixels a side, P pixels a side of a token, L = (S / P)^2 tokens, V = 2^(P P) symbols.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.names import did_you_mean
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, MAX_MADE, DataSpec
from fewstep.data.images.base import ImageDataset
from fewstep.runtime.seeding import generator_for

if TYPE_CHECKING:
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Affine2D, Bbox

FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)
_MARGIN = 1.5
"""Pixels between the tallest glyph and the border, before it is moved."""
_INK = 96
"""Coverage of a pixel, of 255, from which on it is black; thin strokes break where it is half or more."""
_QUADRANTS = " ▘▝▀▖▌▞▛▗▚▐▜▄▙▟█"
"""Characters of 2 x 2 pixels: top left counts 1, top right 2, bottom left 4, bottom right 8."""


@DATASETS.register("glyphs")
class Glyphs(ImageDataset):
    """Digits or letters in 20 fonts, black on white, each moved, slanted, turned and stretched a little (no download).

    A token stands for 2 x 2 pixels, so that 16 x 16 pixels are 64 tokens of 16 symbols. Fonts are matplotlib's own.
    """

    labelled = True

    class Config(ComponentConfig):
        type: Literal["glyphs"] = "glyphs"
        symbols: str = Field(
            string.digits, min_length=2, max_length=62, description="the classes: digits and letters without accents"
        )
        fonts: tuple[str, ...] = Field(
            FONTS, min_length=1, description="fonts of matplotlib that are drawn, by the names of their files; all 20"
        )
        distortion: float = Field(
            1.0, ge=0, le=2, description="how far glyphs are moved, slanted, turned and stretched; 0 for not at all"
        )
        side: int = Field(16, ge=8, le=64, description="pixels per side (S)")
        patch: Literal[1, 2] = Field(2, description="pixels per side of a token (P); a token has 2^(P P) symbols")
        size: int = Field(8000, gt=1, description="training samples, as many of each class")
        held_out: int = Field(1000, ge=0, description="held-out samples")
        seed: int = Field(0, ge=0, description="of fonts and distortions")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            wrong = [c for c in self.symbols if c not in string.digits + string.ascii_letters]
            if wrong:
                yield "symbols", f"has {wrong[0]!r}; take digits and letters without accents"
            if len(set(self.symbols)) < len(self.symbols):
                yield "symbols", "names a symbol twice"
            for number, font in enumerate(self.fonts):
                if font not in FONTS:
                    yield f"fonts[{number}]", f"unknown font '{font}'{did_you_mean(font, FONTS)}"
            if self.side % self.patch:
                yield "side", f"{self.side} pixels cannot be divided into tokens of {self.patch}; take an even number"
            if (self.size + self.held_out) * self.side**2 > MAX_MADE:
                yield "size", f"{self.size + self.held_out:,} pictures are too much to make; take fewer"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        self.spec = self.outline(c)
        tokens = self._tokens(_pictures(c))
        self.train, self.held_out = tokens[: c.size], tokens[c.size :] if c.held_out else None
        self.labels = torch.arange(c.size) % len(c.symbols)

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec:
        assert isinstance(config, cls.Config)
        cells = config.side // config.patch
        return DataSpec(1 << config.patch**2, cells * cells, (cells, cells, 1))

    def to_text(self, samples: Tensor) -> list[str]:
        """Block elements of 2 x 2 pixels; an odd side has one more row and column of white."""
        pixels = self._pixels(samples)
        odd = pixels.shape[-1] % 2
        rows = _gathered(torch.nn.functional.pad(pixels, (0, odd, 0, odd)), 2).tolist()
        return ["\n".join("".join(_QUADRANTS[v] for v in row) for row in picture) for picture in rows]

    def to_images(self, samples: Tensor) -> Tensor:
        return 1.0 - self._pixels(samples)[:, None].float()

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Pixels (1 is ink) [N, S, S] as tokens [N, L], in bytes."""
        return _gathered(pixels, self.config.patch).flatten(1).byte()

    def _pixels(self, samples: Tensor) -> Tensor:
        """Tokens [N, L] as pixels [N, S, S]."""
        patch, cells = self.config.patch, self.config.side // self.config.patch
        bits = torch.arange(patch * patch, device=samples.device)
        parts = (samples.long()[..., None] >> bits & 1).view(-1, cells, cells, patch, patch)
        return parts.transpose(2, 3).reshape(-1, self.config.side, self.config.side)


def _gathered(pixels: Tensor, patch: int) -> Tensor:
    """Numbers of patches: pixels [N, S, S], 0 or 1, to LongTensor [N, S / P, S / P]; the first pixel counts 1."""
    parts = pixels.long().unfold(1, patch, patch).unfold(2, patch, patch).flatten(3)
    return (parts << torch.arange(patch * patch)).sum(-1)


def _pictures(config: Glyphs.Config) -> Tensor:
    """Pictures of the symbols in turn (1 is ink), LongTensor [N, S, S]."""
    from matplotlib.backends.backend_agg import RendererAgg

    symbols, side, count = config.symbols, config.side, config.size + config.held_out
    outlines = {(symbol, font): _outline(symbol, font) for symbol in symbols for font in config.fonts}
    extents = {key: outline.get_extents() for key, outline in outlines.items()}
    scale = (side - 2 * _MARGIN) / max(extent.height for extent in extents.values())
    generator = generator_for(config.seed, "glyphs")
    fonts = torch.randint(len(config.fonts), (count,), generator=generator).tolist()
    draws = (torch.rand(count, 6, generator=generator, dtype=torch.float64) * 2 - 1) * config.distortion
    renderer = RendererAgg(side, side, 72)
    context, pictures = renderer.new_gc(), np.empty((count, side, side), np.uint8)
    context.set_linewidth(0)
    for number, (font, draw) in enumerate(zip(fonts, draws.tolist(), strict=True)):
        key = symbols[number % len(symbols)], config.fonts[font]
        change = _placed(extents[key], scale, side, draw)
        renderer.clear()
        renderer.draw_path(context, outlines[key], change, (0.0, 0.0, 0.0))
        pictures[number] = np.asarray(renderer.buffer_rgba())[..., 3] >= _INK
    return torch.from_numpy(pictures).long()


def _placed(box: Bbox, scale: float, side: int, draw: list[float]) -> Affine2D:
    """The map of a glyph in a box into its picture, by six numbers in [-1, 1]."""
    from matplotlib.transforms import Affine2D

    wide, high, slant, turn, right, up = draw
    change = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2)
    change.scale(scale * (0.95 + 0.15 * wide), scale * (0.95 + 0.05 * high)).skew(0.15 * slant, 0)
    return change.rotate_deg(5 * turn).translate(side / 2 + right, side / 2 + up)


def _outline(symbol: str, font: str) -> Outline:
    """Outline of a glyph."""
    import matplotlib
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    return TextPath((0, 0), symbol, size=1, prop=FontProperties(fname=str(file)))
