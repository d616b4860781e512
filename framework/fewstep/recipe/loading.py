"""Load, check and write recipes. The first component of a recipe loads torch; this module does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fewstep.core import plugins
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.core.references import ENVIRONMENT, references
from fewstep.recipe.checks import check_recipe
from fewstep.recipe.compose import anchor_plugins, compose, display_path, merge
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
    """A valid recipe, its file, and the text of the file with its comments; without a file, of the current folder."""

    recipe: Recipe
    path: Path
    text: str


def load_recipe(
    source: str | Path | Mapping[str, object],
    sets: Sequence[str] = (),
    *,
    teacher: str | None = None,
    trust_plugins: bool = False,
    also: Callable[[Recipe], Iterable[tuple[str, str]]] | None = None,
) -> LoadedRecipe:
    """Read and check a recipe.

    Args:
        source: a path, the name of a shipped recipe, or the content of a recipe as plain data.
        sets: overrides such as "train.steps=10".
        teacher: run folder that replaces `teacher.run`.
        trust_plugins: run the plugin files and modules that the recipe lists, but not those of models that it names.
        also: a further check of a recipe that is valid by itself; gives keys, and what is wrong there.

    Raises:
        RecipeError: all problems of the recipe, each with file, line, key and correction.
    """
    if isinstance(source, Mapping):
        path, name, text = Path("recipe.yaml"), "recipe", dump_yaml(source)
        root = compose(source, name, sets, teacher=teacher)
    else:
        path, name = locate("recipe", source)
        root, text = compose(path, name, sets, teacher=teacher), read_text(path, name)
        if {"cases", "metrics"} <= root.value.keys():
            raise _error([root.problem(f"is a suite, not a recipe; `fewstep benchmark {name}` runs it")])
    recipe = _validate_recipe(root, trusted=trust_plugins)
    if complaints := list(also(recipe) if also else ()):
        raise _error(_located(root, undotted(key), message) for key, message in complaints)
    return LoadedRecipe(recipe, path, text)


def parse_recipe(
    recipe: str | Mapping[str, object], *, source: str = "recipe", versions: Mapping[str, str] | None = None
) -> Recipe:
    """Check the recipe of a model: YAML text (metadata of a checkpoint) or plain data.

    It runs no code that is not installed (except within `trusting_plugins`) and reads no environment variables.

    Args:
        versions: versions of plugins that the model was made with, for messages.

    Raises:
        RecipeError: all problems of the recipe.
    """
    root = load_mapping(recipe, source) if isinstance(recipe, str) else to_node(recipe, source)
    return _validate_stored(root, versions or {})


def load_run_recipe(
    path: str | Path, *, versions: Mapping[str, str] | None = None, plugins: Sequence[str] | None = None
) -> Recipe:
    """The `recipe.resolved.yaml` of a run; see `parse_recipe`.

    Args:
        versions: versions of plugins that the run was made with, for messages.
        plugins: plugins in place of those that the file lists.

    Raises:
        RecipeError: the file is missing, was edited and is invalid, or needs a missing or untrusted plugin.
    """
    root = anchor_plugins(load_mapping(read_text(Path(path)), str(path)), Path(path).parent)
    if plugins is not None:
        root = Node({**root.value, "plugins": to_node(list(plugins), root.source)}, root.source, root.line)
    return _validate_stored(root, versions or {})


def dump_recipe(recipe: Recipe) -> str:
    """YAML with all defaults spelled out, in the recipe's order; `load_recipe` restores an equal recipe."""
    return dump_yaml(recipe.model_dump(mode="json"))


def with_sampler(
    recipe: Recipe,
    sampler: str | Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
    *,
    steps: Sequence[int],
) -> Recipe:
    """The recipe with another sampler, or with other settings of its sampler, checked like any recipe.

    Args:
        sampler: the new `sampler:` section, YAML or plain data; it discards the old section.
        settings: keys of the sampler.
        steps: numbers of sampling steps, which replace `evaluate.steps`.

    Raises:
        RecipeError: all problems of the sampler, alone or with the other sections.
    """
    evaluate = recipe.evaluate.model_copy(update={"steps": tuple(steps)})
    root = to_node(recipe.model_copy(update={"evaluate": evaluate}).model_dump(mode="json"), recipe.name)
    if sampler is not None:
        place = "--sampler"
        section = load_value(sampler, place, key=("sampler",)) if isinstance(sampler, str) else to_node(sampler, place)
        if section is None:
            raise RecipeError([Problem(place, None, "", "expected the name of a sampler, or keys with `type:`")])
        root = Node({**root.value, "sampler": section}, root.source, None)
    for key, value in (settings or {}).items():
        root = merge(root, to_node({"sampler": {key: value}}, f"--{key.replace('_', '-')}"))
    return _validate_recipe(root)


def with_metrics(recipe: Recipe, metrics: str, *, place: str = "--metrics") -> Recipe:
    """The recipe with other `evaluate.metrics`, checked like any recipe.

    Args:
        metrics: names with commas, or a YAML list of names and settings with `type`.
        place: how messages call it.

    Raises:
        RecipeError: all problems of the metrics, such as one that does not suit the data.
    """
    text = metrics if metrics.lstrip().startswith("[") else f"[{metrics}]"
    section = load_value(text, place, key=("evaluate", "metrics"))
    if section is None or not section.value:
        raise RecipeError([Problem(place, None, "", "expected names of metrics, such as a,b; `fewstep list metrics`")])
    root = to_node(recipe.model_dump(mode="json"), recipe.name)
    evaluate = root.value["evaluate"]
    root.value["evaluate"] = Node({**evaluate.value, "metrics": section}, evaluate.source, None)
    return _validate_recipe(root)


def validate_file(path: str | Path, model: type[M], sets: Sequence[str] = ()) -> M:
    """Read another YAML file (a suite) into `model`, with `extends`, `--set` and located errors as in recipes.

    Raises:
        RecipeError: all problems of the file.
    """
    return _validate(compose(Path(path), str(path), sets), model)


def locate(kind: Literal["recipe", "suite"], source: str | Path) -> tuple[Path, str]:
    """The file of a path or of a shipped name, and its name in messages.

    Raises:
        RecipeError: no shipped file has that name.
    """
    path = Path(source)
    if path.is_file() and (advice := _advice_on_data(path)):
        raise RecipeError([Problem(str(source), None, "", advice)])
    if isinstance(source, Path) or is_path(source) or "/" in source or path.is_file():
        return path, str(source)
    try:
        path = find_shipped(kind, source)
    except UserError as error:
        raise RecipeError([Problem(source, None, "", str(error))]) from None
    return path, display_path(path)


def _advice_on_data(path: Path) -> str | None:
    """What to do with a file that is data or a model; None for a recipe."""
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    if endings & {".safetensors", ".ckpt", ".pt", ".bin"}:
        return "is a model, not a recipe; `fewstep sample` draws from a run, `fewstep import` reads other checkpoints"
    if endings & {".txt", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}:
        command = f"fewstep train text-teacher --set data.type=text --set data.path={path}"
        return f"is data, not a recipe; name a recipe, and the data in it: {command}"
    if endings & {".zip", ".png", ".jpg", ".jpeg"}:
        command = f"fewstep train images-teacher --set data.path={path}"
        return f"is data, not a recipe; name a recipe, and the data in it: {command}"
    return None


def _validate_stored(root: Node, versions: Mapping[str, str]) -> Recipe:
    """The recipe of a model, which a stranger may have written."""
    problems = [_no_variable(root, key, stored=True) for key in _variables(root)]
    if extends := root.child("extends"):
        problems.append(extends.problem("the recipe of a model is complete, and extends no other file", "extends"))
    if problems:
        raise _error(problems)
    return _validate_recipe(root, versions=versions)


def _validate_recipe(root: Node, *, trusted: bool = False, versions: Mapping[str, str] | None = None) -> Recipe:
    from fewstep.recipe.models import Recipe

    plugin_problems = _load_plugins(root, trusted, versions or {})
    recipe = _validate(root, Recipe, plugin_problems)
    if complaints := check_recipe(recipe):
        raise _error(_located(root, undotted(key), message) for key, message in complaints)
    return recipe


def _load_plugins(root: Node, trusted: bool, versions: Mapping[str, str]) -> list[Problem]:
    """Import the modules of `plugins:` before any look-up; returns the problems.

    Pydantic reports a value that is not a list of names.

    Raises:
        RecipeError: plugins are not trusted; names that they would register are then unknown, which is no mistake.
    """
    names = root.child("plugins")
    problems, untrusted = [], []
    for index, item in enumerate(names.value if names and isinstance(names.value, list) else []):
        try:
            if isinstance(item.value, str):
                plugins.load_required(item.value, trusted=trusted, version=versions.get(item.value, ""))
        except plugins.UntrustedPluginError as error:
            untrusted.append(item.problem(str(error), f"plugins[{index}]"))
        except UserError as error:
            problems.append(item.problem(str(error), f"plugins[{index}]"))
    if untrusted:
        raise _error(untrusted)
    return problems


def _validate(root: Node, model: type[M], problems: Iterable[Problem] = ()) -> M:
    """`root` as a `model`.

    Raises:
        RecipeError: `problems`, and the problems of the validation.
    """
    all_problems = list(problems)
    try:
        value = model.model_validate(root.plain())
        allowed = {reference.key for reference in references(value)}
        all_problems += [_no_variable(root, key) for key in _variables(root) if ".".join(map(str, key)) not in allowed]
    except ValidationError as error:
        variables = set(_variables(root))
        for e in _without_echoes(error.errors(include_url=False), plugin_failed=bool(all_problems)):
            misplaced = e["loc"] in variables and e["type"] != "environment"
            all_problems.append(
                _no_variable(root, e["loc"]) if misplaced else _located(root, e["loc"], e["msg"], e["type"])
            )
    if all_problems:
        raise _error(all_problems)
    return value


def _without_echoes(errors: Iterable[ErrorDetails], *, plugin_failed: bool) -> Iterator[ErrorDetails]:
    """The errors without those that follow from a plugin that failed to load: it may have the unknown components.

    If the failed plugin is an installed one, the first of them stays, which names it. So does a likely typo.
    """
    echo = plugin_failed
    for error in errors:
        if error["type"] == "unknown_component" and "did you mean" not in error["msg"]:
            if echo:
                continue
            echo = bool(plugins.failure_notes())
        yield error


def _variables(node: Node, key: Key = ()) -> Iterator[Key]:
    """Keys of the values that contain `${env:NAME}`."""
    if isinstance(node.value, str) and ENVIRONMENT.search(node.value):
        yield key
    steps: Iterable[str | int] = node.value if isinstance(node.value, dict) else ()
    if isinstance(node.value, list):
        steps = range(len(node.value))
    for step in steps:
        child = node.child(step)
        assert child is not None
        yield from _variables(child, (*key, step))


def _no_variable(root: Node, key: Key, *, stored: bool = False) -> Problem:
    message = "${env:...} is understood in settings that name a run, a model or a file only"
    if stored:
        message = "${env:...} is not understood in the recipe of a model, which reads no environment variables"
    return root.follow(key)[0].problem(message, dotted(key))


def _located(root: Node, key: Key, message: str, kind: str = "missing_key") -> Problem:
    """A problem at the value of `key`, or at the section that lacks the key.

    Pydantic appends its own names (branches of a union) to the keys of values; they are dropped.
    """
    node, depth = root.follow(key)
    absent = isinstance(node.value, dict) or kind == "missing_key"
    return node.problem(message, dotted(key[: depth + 1] if absent else key[:depth]))


def _error(problems: Iterable[Problem]) -> RecipeError:
    return RecipeError(sorted(dict.fromkeys(problems), key=lambda p: (p.source, p.line or 0)))
