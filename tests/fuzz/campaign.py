"""Fuzzing without shrinking, as a table: `python tests/fuzz/campaign.py all --count 100 --seed 1`.

Each kind of `kinds.py` is a subcommand, `all` runs all. Columns: inputs tried; refused in a sentence; harmless (read as
the same, or of a kind whose files have no digest); silent (read as something else in spite of a digest); crashed
(another exception, more than 10 s or 1 GB). The exit code is 1 if anything was silent or crashed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kinds import KINDS, Try, outcome

from fewstep.runs.environment import describe_environment

COLUMNS = ("refused", "harmless", "silent", "crashed")


def campaign(attempt: Try, count: int, seed: str) -> Counter[str]:
    """Outcomes of `count` inputs; crashes are printed with the seed that repeats them."""
    counts: Counter[str] = Counter()
    for number in range(count):
        try:
            result = outcome(attempt, random.Random(f"{seed}/{number}"))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            result = "crashed"
            print(f"{seed}/{number}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        if result == "silent":
            print(f"{seed}/{number}: silent", file=sys.stderr)
        counts[result] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    commit = describe_environment().get("commit")
    print(f"Seed {options.seed}, commit {str(commit)[:7]}.\n")
    print(f"| kind | tried | {' | '.join(COLUMNS)} |\n|---|{'---:|' * 5}")
    wrong = 0
    for name in KINDS if options.kind == "all" else [options.kind]:
        with tempfile.TemporaryDirectory() as folder:
            counts = campaign(KINDS[name](Path(folder)), options.count, f"{name}/{options.seed}")
        print(f"| {name} | {options.count} | {' | '.join(str(counts[column]) for column in COLUMNS)} |", flush=True)
        wrong += counts["silent"] + counts["crashed"]
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
