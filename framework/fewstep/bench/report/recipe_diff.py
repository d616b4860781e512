"""Differences between recipes: of a case and the case that it builds on, or of several models."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fewstep.bench.report.tables import Grid
from fewstep.bench.results.results import CaseResult, Results

_ELSEWHERE = ("name", "seed", "teacher", "start_from")
"""Keys that the table of models shows, or that always differ."""


def base_of(results: Results, case: CaseResult) -> CaseResult | None:
    """The case whose model it samples, else its teacher, else the first case of the suite; None for the first."""
    name = case.model or case.teacher
    base = results.case(name, case.train_seed) or results.case(name) if name else results.cases[0]
    return None if base is None or base.name == case.name else base


def recipe_diff(base: CaseResult, case: CaseResult) -> Grid:
    """Dotted keys with different values, and both values. A section of another type has one row a key."""
    old, new = (_flat(c.resolved) for c in (base, case))
    keys = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]
    rows = [[key, old.get(key, "–"), new.get(key, "–")] for key in keys if key.split(".")[0] not in _ELSEWHERE]
    return Grid(["key", base.name, case.name], rows, text_columns=3)


def recipes_grid(recipes: Mapping[str, Mapping[str, object]]) -> Grid:
    """Dotted keys that are not the same in all recipes, with the value of each model."""
    flat = {name: _flat(dict(recipe)) for name, recipe in recipes.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = [[key, *(values.get(key, "–") for values in flat.values())] for key in keys if key != "name"]
    # A section that is null in one recipe and filled in another has a row for each of its keys.
    differ = [row for row in rows if len({"–" if value == "null" else value for value in row[1:]}) > 1]
    return Grid(["key", *flat], differ, text_columns=1 + len(flat))


def _flat(value: object, path: str = "") -> dict[str, str]:
    """Dotted keys and their values as text."""
    if isinstance(value, dict) and value:
        inner = [_flat(below, f"{path}.{key}" if path else key) for key, below in value.items()]
        return {key: text for part in inner for key, text in part.items()}
    return {path: value if isinstance(value, str) else json.dumps(value)}
