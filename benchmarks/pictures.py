"""Draw the pictures of committed results again, for pages and papers, without measuring anything.

    python benchmarks/pictures.py benchmarks/results/distillers/FILE.json --out docs/images --name distillers

writes NAME.png (quality by evaluations), and NAME-diversity.png and NAME-frontier.png if the suite has a value of
diversity and sweeps a setting.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from fewstep.bench.report.outputs import draw_pictures
from fewstep.bench.results.results import Results, results_file
from fewstep.core.errors import FewstepError

_MAIN = "quality_vs_nfe"


def redraw(results: Results, out: Path, name: str) -> list[Path]:
    """Write the pictures of `results` into a folder as NAME.png, NAME-diversity.png and so on; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as folder:
        for picture in draw_pictures(results, Path(folder)):
            rest = "" if picture.stem == _MAIN else f"-{picture.stem.removeprefix('quality_vs_')}"
            written.append(out / f"{name}{rest}.png")
            written[-1].write_bytes(picture.read_bytes())
    return written


def main() -> int:
    """The command line; 2 if there are no results to draw."""
    parser = argparse.ArgumentParser(description="Draw the pictures of results again.")
    parser.add_argument("results", help="results.json, or a folder with one")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    parser.add_argument("--name", help="how their names begin; the suite's if left out")
    parsed = parser.parse_args()
    try:
        results = Results.load(results_file(parsed.results))
    except FewstepError as error:
        print(error, file=sys.stderr)
        return 2
    for path in redraw(results, parsed.out, parsed.name or results.suite.name):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
