"""Glyphs: the right symbols, the same for the same settings; tokens and pixels are each other's inverse."""

from __future__ import annotations

import pytest
import torch

from fewstep.core.errors import RecipeError
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.images.glyphs import FONTS
from fewstep.recipe import load_recipe


def build(**settings: object) -> Dataset:
    return DATASETS.build({"type": "glyphs", "size": 40, "held_out": 10, **settings})


@pytest.mark.parametrize(
    ("settings", "symbols", "grid"),
    [({}, 16, (8, 8, 1)), ({"patch": 1}, 2, (16, 16, 1)), ({"side": 9, "patch": 1}, 2, (9, 9, 1))],
)
def test_tokens_and_pixels_are_one_anothers_inverse(
    settings: dict[str, object], symbols: int, grid: tuple[int, int, int]
) -> None:
    glyphs = build(**settings)
    assert (glyphs.spec.vocab_size, glyphs.spec.grid) == (symbols, grid)
    assert glyphs.spec.length == grid[0] * grid[1]
    every = torch.arange(symbols).repeat(glyphs.spec.length, 1).T.contiguous()
    pictures = glyphs.pictures(every)
    assert pictures is not None
    assert pictures.shape[-1] == glyphs.config.side  # type: ignore[attr-defined]
    assert torch.equal(glyphs._tokens((1 - pictures[:, 0]).long()).long(), every)  # type: ignore[attr-defined]


def test_the_first_bit_of_a_token_is_its_top_left_pixel() -> None:
    glyphs = build()
    token = torch.zeros(1, 64, dtype=torch.long)
    token[0, 8 + 2] = 1 + 4  # second row, third column: left half of the cell
    pictures = glyphs.pictures(token)
    assert pictures is not None
    assert (1 - pictures[0, 0]).nonzero().tolist() == [[2, 4], [3, 4]]
    assert glyphs.to_text(token)[0].splitlines()[1] == "  ▌     "


def test_settings_decide_the_pictures_and_classes_take_turns() -> None:
    glyphs, again, other = build(), build(), build(seed=1)
    assert glyphs.fingerprint == again.fingerprint != other.fingerprint
    assert glyphs.labels is not None
    assert glyphs.held_out is not None
    assert glyphs.labels.bincount().tolist() == [4] * 10
    assert (len(glyphs), len(glyphs.held_out)) == (40, 10)
    longer = build(size=50, held_out=0)
    assert torch.equal(longer.train[:40], glyphs.train[:])
    assert torch.equal(longer.train[40:], glyphs.held_out[:])
    assert longer.held_out is None


def test_fonts_and_distortion_are_chosen() -> None:
    plain = build(fonts=["DejaVuSans"], distortion=0)
    assert len(torch.unique(plain.train[:], dim=0)) == 10, "one picture of each digit"
    assert torch.equal(plain.train[:10], plain.train[10:20])
    two = build(fonts=["DejaVuSans", "DejaVuSans-Bold"], distortion=0, size=200)
    assert len(torch.unique(two.train[:], dim=0)) == 20
    assert build(fonts=list(FONTS)).fingerprint == build().fingerprint


def test_glyphs_lie_inside_and_differ_by_symbol() -> None:
    glyphs = build(size=400, held_out=0)
    pictures, labels = glyphs.pictures(glyphs.train[:].long()), glyphs.labels
    assert pictures is not None
    assert labels is not None
    ink = 1 - pictures[:, 0]
    assert ink.flatten(1).sum(1).min() >= 12, "no picture is empty"
    border = torch.cat((ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]), 1)
    assert border.mean() < 0.02, "hardly a glyph touches the border"
    means = torch.stack([ink[labels == label].mean(0) for label in range(10)])
    nearest = (ink[:, None] - means).square().sum((2, 3)).argmin(1)
    assert (nearest == labels).double().mean() > 0.75


def test_all_fonts_have_all_symbols() -> None:
    import string

    from fewstep.data.images.glyphs import _outline

    for font in FONTS:
        sizes = {c: len(_outline(c, font).vertices) for c in string.digits + string.ascii_letters}
        assert min(sizes.values()) > 3, (font, sizes)
        assert _outline("O", font).get_extents().height > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.symbols=01é", "data.symbols: has 'é'; take digits and letters without accents"),
        ('data.symbols="0110"', "data.symbols: names a symbol twice"),
        ("data.fonts=[DejaVuSan]", "data.fonts[0]: unknown font 'DejaVuSan'; did you mean 'DejaVuSans'?"),
        ("data.side=15", "data.side: 15 pixels cannot be divided into tokens of 2; take an even number"),
        ("data.size=10000000", "data.size: 10,001,000 pictures are too much to make; take fewer"),
    ],
)
def test_settings_that_make_no_pictures_are_refused(change: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe("glyphs-teacher", [change])
    assert message in str(refused.value)
