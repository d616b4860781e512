"""Load, check and write recipes. Torch is loaded by the first component that a recipe names, not before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from fewstep.core import plugins
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.core.references import ENVIRONMENT, references
from fewstep.recipe.checks import check_recipe
from fewstep.recipe.compose import compose, merge, shown
from fewstep.recipe.shipped import find_shipped, is_path
from fewstep.recipe.yaml_loader import (
    Key,
    Node,
    dotted,
    dump_yaml,
    load_mapping,
    load_value,
    read_text,
    to_node,
    undotted,
)

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class LoadedRecipe:
    """A valid recipe, the file that it came from, and that file's text (comments and all)."""

    recipe: Recipe
    path: Path
    text: str


def load_recipe(source: str | Path, sets: Sequence[str] = (), *, teacher: str | None = None) -> LoadedRecipe:
    """Read a recipe and check all of it.

    Args:
        source: a path, or the name of a shipped recipe.
        sets: overrides such as "train.steps=10".
        teacher: run folder that takes the place of `teacher.run`.

    Raises:
        RecipeError: everything that is wrong with it, each with file, line, key and what to write instead.
    """
    path, name = locate("recipe", source)
    root = compose(path, name, sets, teacher=teacher)
    return LoadedRecipe(_validate_recipe(root), path, read_text(path, name))


def parse_recipe(recipe: str | Mapping[str, object], *, source: str = "recipe") -> Recipe:
    """Check a recipe that is no file: YAML text (a checkpoint's metadata) or plain data.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    return _validate_recipe(load_mapping(recipe, source) if isinstance(recipe, str) else to_node(recipe, source))


def load_run_recipe(path: str | Path) -> Recipe:
    """The `recipe.resolved.yaml` of a run.

    Raises:
        RecipeError: it is missing, was edited into something invalid, or a plugin that it needs is gone.
    """
    return load_recipe(Path(path)).recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML with every default spelled out, in the recipe's own order; `load_recipe` reads it back unchanged."""
    return dump_yaml(recipe.model_dump(mode="json"))


def with_sampler(
    recipe: Recipe, sampler: str | None = None, settings: Mapping[str, object] | None = None, *, steps: Sequence[int]
) -> Recipe:
    """The recipe with another sampler, or with other settings of its sampler, checked like a recipe.

    Args:
        sampler: what `sampler:` would say, as YAML; nothing of the old one stays.
        settings: keys of the sampler, which problems call by their options (`top_p` is --top-p).
        steps: numbers of steps that it is for, in the place of those that the recipe evaluates at.

    Raises:
        RecipeError: everything that is wrong with it, or why it does not fit the rest of the recipe.
    """
    evaluate = recipe.evaluate.model_copy(update={"steps": tuple(steps)})
    root = to_node(recipe.model_copy(update={"evaluate": evaluate}).model_dump(mode="json"), recipe.name)
    if sampler is not None:
        replaced = load_value(sampler, "--sampler", key=("sampler",))
        if replaced is None:
            raise RecipeError([Problem("--sampler", None, "", "expected the name of a sampler, or keys with `type:`")])
        root = Node({**root.value, "sampler": replaced}, root.source, None)
    for key, value in (settings or {}).items():
        option = f"--{key.replace('_', '-')}"
        root = merge(root, to_node({"sampler": {key: value}}, option))
    return _validate_recipe(root)


def validate_file(path: str | Path, model: type[M], sets: Sequence[str] = ()) -> M:
    """Read any other YAML file (a suite) into `model`: `extends`, `--set` and located errors as for recipes.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    return _validate(compose(Path(path), str(path), sets), model)


def locate(kind: Literal["recipe", "suite"], source: str | Path) -> tuple[Path, str]:
    """The file that a path or a shipped name means, and what to call it in messages.

    Raises:
        RecipeError: nothing shipped has that name.
    """
    path = Path(source)
    if isinstance(source, Path) or is_path(source) or "/" in source or path.is_file():
        return path, str(source)
    try:
        path = find_shipped(kind, source)
    except UserError as error:
        raise RecipeError([Problem(source, None, "", str(error))]) from None
    return path, shown(path)


def _validate_recipe(root: Node) -> Recipe:
    from fewstep.recipe.models import Recipe

    broken = _load_plugins(root)
    recipe = _validate(root, Recipe, broken)
    if found := check_recipe(recipe):
        raise _error(_located(root, undotted(key), message) for key, message in found)
    return recipe


def _load_plugins(root: Node) -> list[Problem]:
    """Import what `plugins:` lists, before anything is looked up; what is not a list of names is left to pydantic."""
    names = root.child("plugins")
    problems = []
    for index, item in enumerate(names.value if names and isinstance(names.value, list) else []):
        try:
            if isinstance(item.value, str):
                plugins.load_required(item.value)
        except UserError as error:
            problems.append(item.problem(str(error), f"plugins[{index}]"))
    return problems


def _validate(root: Node, model: type[M], problems: Iterable[Problem] = ()) -> M:
    """`root` as a `model`; `problems` were found before and join those found here."""
    found = list(problems)
    try:
        value = model.model_validate(root.plain())
        may_vary = {named.key for named in references(value)}
        found += [_no_variable(root, key) for key in _variables(root) if ".".join(map(str, key)) not in may_vary]
    except ValidationError as error:
        variables = set(_variables(root))
        for e in error.errors(include_url=False):
            misplaced = e["loc"] in variables and e["type"] != "environment"
            found.append(_no_variable(root, e["loc"]) if misplaced else _located(root, e["loc"], e["msg"], e["type"]))
    if found:
        raise _error(found)
    return value


def _variables(node: Node, key: Key = ()) -> Iterator[Key]:
    """Where `${env:NAME}` stands."""
    if isinstance(node.value, str) and ENVIRONMENT.search(node.value):
        yield key
    steps: Iterable[str | int] = node.value if isinstance(node.value, dict) else ()
    if isinstance(node.value, list):
        steps = range(len(node.value))
    for step in steps:
        child = node.child(step)
        assert child is not None
        yield from _variables(child, (*key, step))


def _no_variable(root: Node, key: Key) -> Problem:
    message = "${env:...} is understood in settings that name a run, a model or a file only"
    return root.follow(key)[0].problem(message, dotted(key))


def _located(root: Node, key: Key, message: str, kind: str = "missing_key") -> Problem:
    """A problem at the value that `key` names, or at the section that it is missing from.

    Pydantic appends names of its own (a union's branches) to the keys of values; those are dropped.
    """
    node, depth = root.follow(key)
    absent = isinstance(node.value, dict) or kind == "missing_key"
    return node.problem(message, dotted(key[: depth + 1] if absent else key[:depth]))


def _error(problems: Iterable[Problem]) -> RecipeError:
    return RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (p.source, p.line or 0)))
