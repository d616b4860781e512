"""Tries every way of `ways.py`: `PYTHONPATH=framework python tests/security/campaign.py` prints the table of the page.

Each way works in a folder of its own. It ran if its canary was written, was refused if it ended with an error, and was
harmless if a model or recipe opened without the code.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arena import Arena
from ways import CODE, Way


def result(way: Way) -> str:
    """What a way comes to: ran, refused or harmless."""
    with tempfile.TemporaryDirectory(prefix="way") as name:
        here, before = Path.cwd(), list(sys.path)
        os.chdir(name)
        sys.path.insert(0, name)
        arena = Arena(Path(name))
        try:
            code = way(arena).code
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = 1
        finally:
            os.chdir(here)
            sys.path[:] = before
        return "ran" if arena.canary.exists() else "refused" if code else "harmless"


def main() -> None:
    """Print a table, and how many ways there are of each kind."""
    results = {name: result(way) for name, way in CODE.items()}
    print("| way | result |\n|---|---|")
    for name, value in results.items():
        print(f"| {name} | {value} |")
    counts = Counter(results.values())
    print(f"\n{len(results)} tried: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("refused", "harmless", "ran")))


if __name__ == "__main__":
    main()
