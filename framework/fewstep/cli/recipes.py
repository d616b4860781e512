"""`fewstep validate`, `schema` and `cp`: commands for recipe files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fewstep.cli.output import echo_json
from fewstep.core.errors import Problem, RecipeError, UserError

if TYPE_CHECKING:
    import yaml

    from fewstep.recipe.models import Recipe

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one key; may be repeated")]


def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="paths or names of shipped recipes")],
    sets: Sets = None,
    trust_plugins: Annotated[
        bool, typer.Option("--plugins", "--trust-plugins", help="run the plugin files and modules that recipes list")
    ] = False,
    build: Annotated[
        bool, typer.Option("--build", help="also read the data and build all networks, as a training begins")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check recipes without running them or their plugins. Exit code 2 if anything is wrong.

    A teacher that is there already is compared with the recipe.
    """
    from fewstep.recipe import load_recipe
    from fewstep.training.origins import misfits

    results: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for source in recipes:
        try:
            loaded = load_recipe(source, sets or [], trust_plugins=trust_plugins, also=misfits)
            if build:
                _build(loaded.recipe, source)
        except RecipeError as error:
            problems += error.problems
            results.append({"source": source, "ok": False, "problems": [p.as_dict() for p in error.problems]})
            continue
        results.append({"source": source, "ok": True, "name": loaded.recipe.name, "problems": []})
        if not as_json:
            typer.echo(f"ok {loaded.recipe.name} ({source})")
    if as_json:
        echo_json(results)
        raise typer.Exit(RecipeError.exit_code if problems else 0)
    if problems:
        raise RecipeError(problems)


def _build(recipe: Recipe, source: str) -> None:
    """Build what a training of the recipe begins with.

    Raises:
        RecipeError: that cannot be built.
    """
    from fewstep.runtime.device import resolve_device
    from fewstep.training.assemble import assemble

    try:
        resolve_device(recipe.train.device)
        assemble(recipe)
    except UserError as error:
        raise RecipeError([Problem(source, None, "", str(error))]) from None


def schema(out: Annotated[Path | None, typer.Option(help="file to write; printed if left out")] = None) -> None:
    """Write a JSON schema of recipes for editors. It includes the plugins that are installed."""
    from fewstep.recipe.schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text + "\n", encoding="utf-8")
    typer.echo(f"wrote {out}")


def cp(
    recipe: Annotated[str, typer.Argument(help="path, or name of a shipped recipe or suite")],
    file: Annotated[Path, typer.Argument(help="where to put the copy: a file or a folder")],
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Copy a recipe or a suite to start your own from. Adapts the paths in it to the new place."""
    from fewstep.recipe import locate
    from fewstep.recipe.yaml_loader import load_mapping, read_text

    source, name = locate(_kind(recipe), recipe)
    text = read_text(source, name)
    load_mapping(text, name)  # raises for broken YAML before anything is written
    target = file / source.name if file.is_dir() else file
    if target.exists() and not force:
        raise UserError(f"'{target}' exists; name another file, or replace it with --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_modeline(target) + _retarget(text, source, target), encoding="utf-8")
    typer.echo(f"wrote {target}")


def _kind(name: str) -> Literal["recipe", "suite"]:
    """What has this shipped name, or is nearest to it; a recipe where both have it."""
    from fewstep.core.names import did_you_mean
    from fewstep.recipe.shipped import shipped_recipes, shipped_suites

    recipes, suites = shipped_recipes(), shipped_suites()
    if name in recipes or name in suites:
        return "recipe" if name in recipes else "suite"
    return "suite" if did_you_mean(name, suites) and not did_you_mean(name, recipes) else "recipe"


def _modeline(target: Path) -> str:
    """Comment that names the schema for editors; empty without a schema in or above the target's folder."""
    folder = target.parent.resolve()
    for parent in (folder, *folder.parents):
        schema_file = parent / ".schema" / "recipe.json"
        if schema_file.is_file():
            return f"# yaml-language-server: $schema={Path(os.path.relpath(schema_file, folder)).as_posix()}\n"
    return ""


def _retarget(text: str, source: Path, target: Path) -> str:
    """The text with the paths of bases, plugins and recipes of cases rewritten for the new place.

    Edits the text at the nodes' positions, since dumping the YAML again would lose comments and layout.
    """
    import yaml

    text = re.sub(r"\A# yaml-language-server:.*\n", "", text)
    edits: list[tuple[yaml.Node, str]] = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if root else ():
        if key.value == "extends" and isinstance(value, yaml.ScalarNode) and value.value.endswith((".yaml", ".yml")):
            edits.append((value, _base_from(source.parent / value.value, target)))
        if key.value == "cases" and isinstance(value, yaml.SequenceNode):
            edits += [(item, _relative(source.parent / item.value, target)) for item in _recipe_paths(value)]
        if key.value == "plugins" and isinstance(value, yaml.SequenceNode):
            files = [item for item in value.value if str(item.value).endswith(".py")]
            edits += [(item, _relative(source.parent / item.value, target)) for item in files]
    for node, path in sorted(edits, key=lambda edit: -edit[0].start_mark.index):
        written = path if re.fullmatch(r"[\w./-]+", path) else json.dumps(path, ensure_ascii=False)
        text = text[: node.start_mark.index] + written + text[node.end_mark.index :]
    return text


def _recipe_paths(cases: yaml.SequenceNode) -> list[yaml.ScalarNode]:
    """Values of `recipe` of a suite's cases that are paths, not names."""
    pairs = [pair for case in cases.value if isinstance(case.value, list) for pair in case.value]
    values = [value for key, value in pairs if key.value == "recipe"]
    return [value for value in values if str(value.value).endswith((".yaml", ".yml"))]


def _base_from(base: Path, target: Path) -> str:
    """Value of `extends` in the copy: the name of a shipped base, else a relative path."""
    from fewstep.recipe.shipped import shipped_bases, shipped_recipes

    shipped = {path.resolve(): name for name, path in {**shipped_recipes(), **shipped_bases()}.items()}
    return shipped.get(base.resolve()) or _relative(base, target)


def _relative(path: Path, target: Path) -> str:
    relative = Path(os.path.relpath(path.resolve(), target.parent.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"
