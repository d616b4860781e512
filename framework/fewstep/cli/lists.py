"""Numbers of steps on the command line: one list with commas, and what a person is told who typed spaces."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import typer
from typer.core import TyperCommand


def numbers(text: str) -> list[int]:
    """What a person typed for --steps."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"expected numbers from 1, such as 4,8,16, not '{text}'", param_hint="--steps")
    return [int(part) for part in parts]


class StepsCommand(TyperCommand):
    """A command with such a list: `--steps 4 8` is refused with the list that was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # click's UsageError; which click that is depends on the version of typer
            meant = _meant(typed)
            if meant and "unexpected extra argument" in getattr(error, "message", ""):
                error.message = f"{error.message}: numbers of steps are one list, --steps {meant}"  # type: ignore[attr-defined]
            raise


def _meant(args: list[str]) -> str:
    """The list that the numbers after --steps make, if there are several: "4,8,16"."""
    after = args[args.index("--steps") + 1 :] if "--steps" in args else []
    typed = list(takewhile(lambda part: part.strip(",").isdecimal(), after))
    return ",".join(part.strip(",") for part in typed) if len(typed) > 1 else ""
