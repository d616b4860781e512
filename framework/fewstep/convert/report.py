"""All differences between a checkpoint and a network, in one message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fewstep.core.errors import UserError

_MAX_ROWS = 20


def compare(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], path: Path) -> None:
    """Check that a state has exactly the names and shapes of a network.

    Raises:
        UserError: they differ; one sentence with the counts, and a line per missing, unexpected or misshapen key.
    """
    missing = [(key, "missing", _shape(expected[key]), "") for key in expected if key not in actual]
    unexpected = [(key, "unexpected", "", _shape(actual[key])) for key in actual if key not in expected]
    misshapen = [
        (key, "wrong shape", _shape(tensor), _shape(actual[key]))
        for key, tensor in expected.items()
        if key in actual and actual[key].shape != tensor.shape
    ]
    rows = [*missing, *misshapen, *unexpected]
    if rows:
        counts = f"{len(missing)} missing, {len(misshapen)} of wrong shape, {len(unexpected)} unexpected"
        raise UserError(f"'{path}' does not fit backbone dit: {counts}\n{_table(rows)}")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "number"


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    """The first rows under a heading, and the number of omitted rows."""
    table = [("key", "problem", "expected", "actual"), *rows[:_MAX_ROWS]]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, f"... and {len(rows) - _MAX_ROWS} more"] if len(rows) > _MAX_ROWS else lines)
