"""Trains recipes for a few steps in one process, each after the models that it names.

A recipe that makes much before its first step says in a comment what is to be smaller here:

    # Few steps: objective.roll_outs=64 data.size=256
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from fewstep.cli.main import main
from fewstep.core.references import references
from fewstep.recipe import load_recipe
from fewstep.recipe.shipped import shipped_recipes

STEPS = 3
_SMALLER = re.compile(r"^# Few steps: (.*)$", re.MULTILINE)
_NAMED_RUN = re.compile(r"runs/([\w.-]+)/")


def changes(path: Path) -> list[str]:
    """Overrides of a recipe that make its training short."""
    smaller = _SMALLER.findall(path.read_text(encoding="utf-8"))
    return [
        f"train.steps={STEPS}",
        "train.batch_size=8",
        "train.device=cpu",
        *(text for line in smaller for text in line.split()),
    ]


def in_order(paths: list[Path], known: dict[str, Path]) -> list[Path]:
    """These recipes, each after those whose runs it names."""
    ordered: dict[Path, None] = {}

    def add(path: Path) -> None:
        if path not in ordered:
            recipe = load_recipe(path, changes(path)).recipe
            for reference in references(recipe):
                match = _NAMED_RUN.search(reference.value)
                if match and match[1] in known:
                    add(known[match[1]])
            ordered[path] = None

    for path in paths:
        add(path)
    return list(ordered)


def train(path: Path) -> bool:
    """Whether a training of a few steps ends well; the command line says why if not."""
    try:
        main(["train", str(path), *(word for change in changes(path) for word in ("--set", change))])
    except SystemExit as stop:
        return not stop.code


def run(paths: list[Path]) -> int:
    """Train all; returns the exit code."""
    names = {load_recipe(path, changes(path)).recipe.name: path for path in paths}
    failed = [path.name for path in in_order(paths, {**shipped_recipes(), **names}) if not train(path)]
    print(f"failed: {', '.join(failed)}" if failed else "all trained")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(run([Path(name) for name in sys.argv[1:]]))
