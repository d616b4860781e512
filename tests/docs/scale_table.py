"""The plans in docs/recipes-at-scale.md. `python tests/docs/scale_table.py` rewrites them (minutes)."""

from __future__ import annotations

import sys
from pathlib import Path

from fewstep.planning.hardware import GIB, gpu_named
from fewstep.planning.machine import Request
from fewstep.planning.plan import make_plan
from fewstep.recipe import load_recipe
from fewstep.recipe.shipped import shipped_recipes

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/recipes-at-scale.md"
START = "<!-- plans, written by tests/docs/scale_table.py -->\n"
END = "<!-- end of plans -->\n"
GPUS = 8
RECIPES = sorted(name for name, path in shipped_recipes().items() if path.parent.name == "scale")
HEAD = (
    "| recipe | parameters, M | GFLOP a token | steps | batch | GiB a GPU | take | step, ms | hours | cost, $ |\n"
    "|---|---:|---:|---:|---:|---:|---|---:|---:|---:|\n"
)


def row(name: str) -> str:
    """A line of the table, with the strategy to take."""
    recipe, request = load_recipe(shipped_recipes()[name]).recipe, Request(gpu_named("h100"), GPUS)
    plan = make_plan(recipe, request, [False])
    best = plan.best or (plan := make_plan(recipe, request)).best
    assert best is not None, f"{name} fits nowhere"
    cells = [
        f"`{name}`",
        f"{plan.parameters['student'] / 1e6:,.1f}",
        f"{plan.flops_per_token / 1e9:.3g}",
        f"{plan.steps:,}",
        f"{plan.batch:,}",
        f"{best.total / GIB:.1f}",
        best.strategy + (", checkpointing" if best.checkpointing else ""),
        f"{1e3 * best.step_seconds:,.0f}",
        f"{best.hours:,.0f}",
        f"{best.cost:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def rewritten(text: str) -> str:
    """The page with the table as it should be."""
    before, rest = text.split(START)
    rows = []
    for name in RECIPES:
        rows.append(f"{row(name)}\n")
        print(rows[-1], end="", file=sys.stderr, flush=True)
    return f"{before}{START}\n{HEAD}{''.join(rows)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
