"""A suite read from its file: reduced for `--quick`, its sweeps of recipes made cases, every value with its place.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.bench.suites.recipe_sweep import Point, point_name, point_text, setting
from fewstep.bench.suites.suite import CaseSpec, Suite, sets_seed
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.recipe import locate, validate_file
from fewstep.recipe.compose import compose
from fewstep.recipe.yaml_loader import Key, Node, dotted


@dataclass(frozen=True)
class SweptCase:
    """A case that a sweep made.

    Args:
        case: name in the suite's file.
        label: of that case.
        steps: number of sampling steps that its points are judged by.
        point: values of the swept keys.
    """

    case: str
    label: str
    steps: int
    point: Point


@dataclass(frozen=True)
class LoadedSuite:
    """A valid suite (already reduced if `quick`, its sweeps of recipes made cases), and each value's place in its file.

    Args:
        origins: index of each case in the file.
        swept: cases that sweeps made, by name.
    """

    suite: Suite
    source: str
    path: Path
    root: Node
    quick: bool
    sets: tuple[str, ...] = ()
    """Further changes to every recipe, from the command line."""
    origins: tuple[int, ...] = ()
    swept: Mapping[str, SweptCase] = field(default_factory=dict)

    def problem(self, key: Key, message: str) -> Problem:
        """A problem at the value of `key`, or at the innermost section that exists.

        Args:
            key: indices of cases are those of `suite`.
        """
        if len(key) > 1 and key[0] == "cases" and isinstance(key[1], int):
            key = ("cases", self.origins[key[1]], *key[2:])
        return self.root.follow(key)[0].problem(message, dotted(key))

    def set_key(self, index: int, number: int) -> Key:
        """Key of the `number`-th change (from 1) of the case at `index`."""
        position, case = number - 1, self.suite.cases[index]
        for key in (("set",), ("cases", index, "set"), ("quick", "set"), ("cases", index, "quick_set")):
            count = self._count(key)
            if position < count:
                return (*key, position)
            position -= count
        return ("cases", index, "sweep", list(self.swept[case.name].point)[position])

    def _count(self, key: Key) -> int:
        """Number of items of a list in the file."""
        if key[0] == "quick" and not self.quick:
            return 0
        place = ("cases", self.origins[int(key[1])], *key[2:]) if key[0] == "cases" else key
        if place[-1] == "quick_set" and not self.quick:
            return 0
        node, depth = self.root.follow(place)
        return len(node.value) if depth == len(place) else 0


def load_suite(source: str, *, quick: bool = False, sets: Sequence[str] = ()) -> LoadedSuite:
    """Read a suite by its path or shipped name; `sets` are changes to every recipe.

    Raises:
        RecipeError: all problems of the suite; or `quick` for a suite without a section `quick`.
        UserError: `sets` has a seed, and the suite has seeds of training.
    """
    path, name = locate("suite", source)
    root = compose(Path(name), name)
    if "cases" not in root.value and {"objective", "backbone", "data", "train"} & root.value.keys():
        raise RecipeError([root.problem(f"is a recipe, not a suite; `fewstep train {name}` trains it")])
    suite = validate_file(name, Suite)
    if quick and suite.quick is None:
        raise RecipeError([root.problem("--quick needs a section `quick:` with the reduced values")])
    if suite.train_seeds and any(sets_seed(change) for change in sets):
        raise UserError("--set seed: the suite trains with seeds of its own (train_seeds); leave it out")
    suite, origins, swept = expanded(suite.reduced() if quick else suite)
    return LoadedSuite(suite, source, path, root, quick, tuple(sets), origins, swept)


def expanded(suite: Suite) -> tuple[Suite, tuple[int, ...], dict[str, SweptCase]]:
    """The suite with a case for each point of its sweeps of recipes.

    Returns:
        The suite, the index that each of its cases had before, and the cases that sweeps made, by name.
    """
    cases, origins, swept = list[CaseSpec](), list[int](), dict[str, SweptCase]()
    for index, case in enumerate(suite.cases):
        points = case.points
        if not points or case.sweep is None:
            cases.append(case)
            origins.append(index)
            continue
        names = [point_name(case.name, point, list(point)) for point in points]
        taken = {other.name for other in (*suite.cases, *cases)}
        if len(set(names)) < len(names) or taken & set(names):
            names = [f"{case.name}-point{number:03}" for number in range(1, len(points) + 1)]
        for name, point in zip(names, points, strict=True):
            label = case.label or case.name
            changes = (*case.set, *(setting(key, value) for key, value in point.items()))
            fields = {"name": name, "label": f"{label}, {point_text(point)}", "set": changes, "sweep": None}
            cases.append(case.model_copy(update=fields))
            origins.append(index)
            swept[name] = SweptCase(case.name, label, case.sweep.step_count(case.steps), point)
    return suite.model_copy(update={"cases": tuple(cases)}), tuple(origins), swept
