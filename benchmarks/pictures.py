"""Redraw the plots of committed results, for pages and papers. Measures nothing.

    python benchmarks/pictures.py benchmarks/results/distillers/FILE.json --out docs/images --name distillers

writes NAME.png (quality by evaluations), NAME-diversity.png if the suite has a value of diversity, and
NAME-frontier.png if it sweeps a setting.
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
    """Write the plots of `results` into a folder as NAME.png, NAME-diversity.png and so on. Returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    with tempfile.TemporaryDirectory() as folder:
        for picture in draw_pictures(results, Path(folder)):
            suffix = "" if picture.stem == _MAIN else f"-{picture.stem.removeprefix('quality_vs_')}"
            paths.append(out / f"{name}{suffix}.png")
            paths[-1].write_bytes(picture.read_bytes())
    return paths


def main() -> int:
    """Run the command line. Returns the exit code, 2 without readable results."""
    parser = argparse.ArgumentParser(description="Redraw the plots of results.")
    parser.add_argument("results", help="results.json, or a folder with one")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the plots")
    parser.add_argument("--name", help="start of their names; the suite's name if left out")
    options = parser.parse_args()
    try:
        results = Results.load(results_file(options.results))
    except FewstepError as error:
        print(error, file=sys.stderr)
        return 2
    for path in redraw(results, options.out, options.name or results.suite.name):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
