"""What arguments of the command line are made of: lists of numbers, and names that a shell completes."""

from __future__ import annotations

import glob
from itertools import takewhile
from typing import Any

import typer
from typer.core import TyperCommand

from fewstep.sampling.request import MAX_COUNT

MAX_SEED = 2**63 - 1


def recipe_names(incomplete: str) -> list[str]:
    """Names of shipped recipes that begin so, for completion."""
    from fewstep.recipe.shipped import shipped_recipes

    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def suite_names(incomplete: str) -> list[str]:
    """Names of shipped suites that begin so, for completion."""
    from fewstep.recipe.shipped import shipped_suites

    return [name for name in shipped_suites() if name.startswith(incomplete)]


def model_names(incomplete: str) -> list[str]:
    """Names of shipped models, and paths, that begin so, for completion."""
    from fewstep.runs.shipped import manifest

    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    return [name for name in manifest().models if name.startswith(incomplete)] + paths


def numbers(text: str) -> list[int]:
    """Numbers of steps from the text of --steps."""
    parts = [part.strip() for part in text.split(",")]
    if not all(is_count(part) for part in parts):
        raise typer.BadParameter(
            f"expected numbers from 1 to {MAX_COUNT:,}, such as 4,8,16, not '{text[:40]}'", param_hint="--steps"
        )
    return [int(part) for part in parts]


def is_count(text: str) -> bool:
    """Whether a text is a number from 1 to MAX_COUNT."""
    return text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MAX_COUNT


class StepsCommand(TyperCommand):
    """A command with --steps. It refuses `--steps 4 8` and suggests `--steps 4,8`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if suggestion := _suggestion(args):
            raise typer.BadParameter(f"numbers of steps are one list: --steps {suggestion}", param_hint="--steps")
        return super().parse_args(ctx, args)


def _suggestion(args: list[str]) -> str:
    """The numbers after --steps as one list, such as "4,8,16"; empty for fewer than two."""
    after = args[args.index("--steps") + 1 :] if "--steps" in args else []
    counts = list(takewhile(lambda part: part.strip(",").isdecimal(), after))
    return ",".join(part.strip(",") for part in counts) if len(counts) > 1 else ""
