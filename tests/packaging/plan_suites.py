"""Plans suites, as `fewstep benchmark` does before it trains anything: every recipe, teacher and metric is checked.

python tests/packaging/plan_suites.py SUITE...
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fewstep.bench.running.plan import make_plan
from fewstep.bench.suites.loading import load_suite


def main(suites: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suite in suites:
            plan = make_plan(load_suite(suite), Path(folder))
            print(f"{suite}: {len(plan.cases)} cases")


if __name__ == "__main__":
    main(sys.argv[1:])
