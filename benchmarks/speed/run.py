"""How fast, in ratios that do not depend on the machine: `python benchmarks/speed/run.py --out FOLDER`.

Two suites: `throughput` is of whole steps (D-MMD over denoising, the trainer over a bare step, sampling over a forward
pass, block sampling), `micro` of their pieces (losses over a vocabulary, slopes, start-up, waits for the device). Each
part is a file here. Times are processor time of one thread in interleaved rounds; a value is their median.

`FOLDER/results.json` has all rows, `FOLDER/results.md` their table, bold where a goal is missed. `--compare BASE`
compares with kept rows (`results.json`): exit code 1 if one is worse than it allows, or missing.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from rows import Row, compare, read, table, write

from fewstep.core.errors import FewstepError
from fewstep.runs.environment import describe_environment

SUITES = {
    "throughput": ("steps", "trainer", "sampling", "blocks"),
    "micro": ("losses", "shares", "slopes", "startup", "teachers", "waits"),
}
QUICK_TOLERANCE = 0.6
PARTS = [part for parts in SUITES.values() for part in parts]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SUITE|PART", help=f"{', '.join(SUITES)}, or {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="small sizes: a minute; values of its own")
    parser.add_argument("--compare", type=Path, help="results.json to compare with")
    options = parser.parse_args()
    for name in options.names:
        if name not in (*SUITES, *PARTS):
            parser.error(f"there is no suite or part '{name}'; there are {', '.join((*SUITES, *PARTS))}")
    return options


def main() -> int:
    """Measure, write, compare."""
    options = arguments()
    parts = [part for name in options.names for part in SUITES.get(name, (name,))] or PARTS
    base = read(options.compare)[0] if options.compare else []  # fails before anything is measured
    torch.set_num_threads(1)
    about = {**describe_environment(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "quick": options.quick}
    rows: list[Row] = []
    for part in parts:
        for row in importlib.import_module(part).measure(options.quick):
            if options.quick and row.tolerance:  # few rounds, small sizes
                row = replace(row, tolerance=max(row.tolerance, QUICK_TOLERANCE))
            rows.append(row)
            goal = "" if row.goal is None else f"  (goal {row.goal:g}{', missed' if row.misses else ''})"
            print(f"{row.part}: {row.name}: {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]{goal}", flush=True)
            write(options.out / "results.json", rows, about)
    head = f"{about['hardware']}, one thread, torch {about['versions']['torch']}, commit {about['commit']}"
    text = f"{head}{', quick form' if options.quick else ''}\n\n{table(rows)}"
    (options.out / "results.md").write_text(text, encoding="utf-8")
    if not base:
        return 0
    comparison, good = compare(rows, base, {row.part for row in rows})
    print(comparison)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FewstepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
