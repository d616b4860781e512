"""Sweeps of recipe keys: a case becomes one case for each combination of values, before anything is trained.

Importing this loads no torch.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeGuard

from fewstep.core.echo import shown
from fewstep.core.names import did_you_mean
from fewstep.recipe.yaml_loader import Key

Value = str | int | float | bool | None
Point = dict[str, Value]

MOST_POINTS = 200
"""Limit on the trainings of one sweep."""
_DIGITS = 4
"""Significant digits of values that a range or a draw gives."""
_EXAMPLE = "sweep: {optim.lr: [5e-4, 1e-3, 2e-3]} or {optim.lr: {from: 1e-4, to: 1e-2, count: 5, scale: log}}"
_KEYS = ("from", "to", "count", "scale")
_SCALES = ("linear", "log")
_TRIES = 1000


@dataclass(frozen=True)
class Values:
    """A list of values of a recipe key."""

    listed: tuple[Value, ...]

    @property
    def grid(self) -> tuple[Value, ...]:
        return self.listed

    def draw(self, source: random.Random) -> Value:
        return source.choice(self.listed)

    @property
    def ends(self) -> Values:
        """The first and the last value."""
        return Values(self.listed[:: max(1, len(self.listed) - 1)])


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, at even distances or even ratios."""

    low: float
    high: float
    count: int | None
    log: bool

    @property
    def grid(self) -> tuple[Value, ...]:
        count = self.count or 2
        return tuple(self._at(index / (count - 1)) for index in range(count))

    def draw(self, source: random.Random) -> Value:
        return self._at(source.random())

    @property
    def ends(self) -> Range:
        """The two ends alone."""
        return Range(self.low, self.high, 2, self.log)

    def _at(self, share: float) -> Value:
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return round(value)
        return float(f"{value:.{_DIGITS}g}")


def read_ranges(keys: Mapping[str, object]) -> dict[str, Values | Range]:
    """The ranges of keys that have no problems."""
    return {key: _range(value) for key, value in keys.items()}


def points_of(ranges: Mapping[str, Values | Range], draws: int | None, seed: int) -> list[Point]:
    """All combinations of the values, or `draws` different ones at random.

    Draws come from the combinations where all ranges are lists, and from the whole of a range otherwise.
    """
    if draws is None:
        return [dict(zip(ranges, values, strict=True)) for values in product(*(r.grid for r in ranges.values()))]
    source = random.Random(seed)
    points: list[Point] = []
    for _ in range(_TRIES):
        point = {key: values.draw(source) for key, values in ranges.items()}
        if point not in points:
            points.append(point)
        if len(points) == draws:
            break
    return points


def range_problems(
    keys: Mapping[str, object], draws: int | None, known: Sequence[str], options: Sequence[str]
) -> Iterator[tuple[Key, str]]:
    """What is wrong with swept keys, by key.

    Args:
        known: sections and keys at the top of a recipe.
        options: keys of a sweep that are no recipe keys.
    """
    for key, value in keys.items():
        if "." not in key and key not in known:
            near = did_you_mean(key, [*options, *known])
            hint = near or "; keys of a recipe have dots, such as optim.lr"
            yield (key,), f"unknown key '{shown(key)}'{hint}"
        elif key == "seed" or key.startswith(("seed.", "name.")) or key == "name":
            yield (key,), "cannot be swept; `train_seeds` of the suite trains with several seeds"
        elif message := _problem(value, draws is not None):
            yield (key,), message


def count_problem(ranges: Mapping[str, Values | Range], draws: int | None) -> str | None:
    """Why there are too many combinations, or fewer than draws; None if all is well."""
    total = math.prod(len(values.grid) for values in ranges.values())
    if draws is None:
        if total <= MOST_POINTS:
            return None
        return f"{total:,} combinations are more than {MOST_POINTS}; add `draws: N` to take N of them at random"
    finite = all(isinstance(values, Values) for values in ranges.values())
    if finite and draws > total:
        return f"{draws} draws of {total} combinations; leave `draws` out to take all"
    return None


def setting(key: str, value: Value) -> str:
    """A value as a change of a recipe: `optim.lr=0.001`."""
    return f"{key}={json.dumps(value)}"


def point_name(case: str, point: Point, all_keys: Sequence[str]) -> str:
    """Name of the case of a point: `student-lr-0_001`."""
    return "-".join(
        [case, *(f"{_short(key, all_keys)}-{value_text(value)}" for key, value in point.items())]
    ).translate(_IN_NAMES)


def point_text(point: Mapping[str, Value]) -> str:
    """A point for people: `lr 0.001, regulariser 0.25`."""
    return ", ".join(f"{_short(key, list(point))} {value_text(value)}" for key, value in point.items())


def value_text(value: Value) -> str:
    """A value for people: `0.001`, `true`, `none`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


_IN_NAMES = {ord("."): "_", **{ord(c): "-" for c in " +/:,(){}[]=\"'"}}


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, or all of it where another key ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key


def _problem(value: object, drawn: bool) -> str | None:
    """What is wrong with the values of one key."""
    if isinstance(value, Mapping):
        return _range_problem(value, drawn)
    if not isinstance(value, list | tuple):
        return f"give a list of values or a range: {_EXAMPLE}"
    odd = next((item for item in value if not isinstance(item, str | int | float | bool | None)), None)
    if odd is not None:
        return f"values are numbers, words, true, false or null, not {shown(odd)}"
    if len(value) < 2:
        return f"a sweep needs at least two values: {_EXAMPLE}"
    texts = [json.dumps(item) for item in value]
    double = next((text for text in texts if texts.count(text) > 1), None)
    return None if double is None else f"{double} is listed twice"


def _range_problem(value: Mapping[str, object], drawn: bool) -> str | None:
    for key in value:
        if key not in _KEYS:
            return (
                f"unknown key '{shown(key)}' of a range{did_you_mean(str(key), _KEYS) or f'; known: {_listed(_KEYS)}'}"
            )
    if "from" not in value or "to" not in value:
        return f"a range has `from` and `to`: {_EXAMPLE}"
    low, high, count, scale = value["from"], value["to"], value.get("count"), value.get("scale", "linear")
    if not (_is_number(low) and _is_number(high) and low < high):
        return f"`from` and `to` are numbers, the lower one first, not {shown(low)} and {shown(high)}"
    if scale not in _SCALES:
        return f"`scale` is linear or log, not {shown(scale)}"
    if scale == "log" and low <= 0:
        return f"a log range begins above 0, not at {shown(low)}"
    if count is None and not drawn:
        return "add `count: N`, the number of values; or `draws: N` beside the keys, for random ones"
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 2):
        return f"`count` is a whole number from 2 on, not {shown(count)}"
    return None


def _range(value: object) -> Values | Range:
    if isinstance(value, Mapping):
        low, high, count = value["from"], value["to"], value.get("count")
        assert _is_number(low)
        assert _is_number(high)
        assert isinstance(count, int | None)
        return Range(low, high, count, value.get("scale") == "log")
    assert isinstance(value, list | tuple)
    return Values(tuple(value))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
