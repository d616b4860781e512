"""What of a checkpoint does not fit, all of it at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewstep.core.errors import UserError

_MOST = 20


def compare(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    """Check that a state has the names and shapes that a network wants, and no others.

    Raises:
        UserError: one sentence with the counts, and a line for each key that is missing, unexpected or misshapen.
    """
    missing = [(key, "missing", _shape(wanted[key]), "") for key in wanted if key not in given]
    unexpected = [(key, "unexpected", "", _shape(given[key])) for key in given if key not in wanted]
    misshapen = [
        (key, "wrong shape", _shape(tensor), _shape(given[key]))
        for key, tensor in wanted.items()
        if key in given and given[key].shape != tensor.shape
    ]
    rows = [*missing, *misshapen, *unexpected]
    if rows:
        counts = f"{len(missing)} missing, {len(misshapen)} of wrong shape, {len(unexpected)} unexpected"
        raise UserError(f"'{path}' does not fit backbone dit: {counts}\n{_table(rows)}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "number"


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    """Rows under a heading, the first of them if there are many."""
    shown = [("key", "problem", "wanted", "given"), *rows[:_MOST]]
    widths = [max(len(row[column]) for row in shown) for column in range(4)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in shown]
    return "\n".join([*lines, f"... and {len(rows) - _MOST} more"] if len(rows) > _MOST else lines)
