"""Where the time of a step goes, as a picture: `python benchmarks/speed/picture.py RESULTS.json FILE.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rows import read
from shares import PIECES

COLOURS = ("#4477aa", "#ccbb44", "#228833", "#ee6677", "#66ccee", "#bbbbbb")


def draw(results: Path, file: Path) -> None:
    """A bar a phase and size, from the rows of the part `shares`."""
    bars: dict[str, dict[str, float]] = {}
    for row in read(results)[0]:
        if row.part != "shares":
            continue
        name, _, piece_and_size = row.name.partition(": ")
        piece = next(piece for piece in PIECES if piece_and_size.startswith(piece))
        bars.setdefault(f"{name}\n{piece_and_size.removeprefix(piece + ', ')}", {})[piece] = row.value
    figure, axes = plt.subplots(figsize=(9, 0.62 * len(bars) + 1.2), layout="constrained")
    for number, shares in enumerate(bars.values()):
        left = 0.0
        for piece, colour in zip(PIECES, COLOURS, strict=True):
            share = shares.get(piece, 0.0)
            axes.barh(number, share, left=left, color=colour, label=piece if number == 1 else None)
            if share > 0.04:
                axes.text(left + share / 2, number, f"{share:.0%}", ha="center", va="center", fontsize=8)
            left += share
    axes.set_yticks(range(len(bars)), list(bars), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
