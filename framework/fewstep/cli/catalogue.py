"""`fewstep list` and `fewstep show`: the names that a recipe can use."""

from __future__ import annotations

import functools
import inspect
import json
import operator
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from fewstep.cli.output import echo_json, echo_table
from fewstep.core.errors import UserError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from fewstep.core.component import Strict
    from fewstep.core.plugins import Plugin

_FILES = ("recipes", "suites")
_SIGNS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
Row = dict[str, str]


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="objectives, samplers, ... recipes, suites or plugins; all if left out")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List components, recipes, suites and plugins."""
    from fewstep.core.kinds import KINDS, kind_named
    from fewstep.core.plugins import failure_notes

    kinds = (*KINDS, *_FILES, "plugins")
    tables = {name: _rows(name) for name in ([kind_named(kind, kinds)] if kind else kinds)}
    if as_json:
        echo_json(tables)
        return
    for name, rows in tables.items():
        echo_table(name, rows)
    for note in failure_notes():
        typer.echo(f"warning: {note}", err=True)


def show(
    kind: Annotated[str | None, typer.Argument(help="objective, sampler, ... recipe or suite")] = None,
    name: Annotated[str | None, typer.Argument(help="name, as `fewstep list` shows it")] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="a recipe with its bases and all defaults written out")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show a component, a recipe or a suite. Prints its description and keys, or the text of the file.

    Without a name it lists what can be shown.
    """
    from fewstep.core.kinds import KINDS, kind_named, registry

    if kind is None or name is None:
        list_(kind, as_json=as_json)
        return
    kind = kind_named(kind, (*KINDS, *_FILES))
    if resolved and kind != "recipes":
        raise UserError(f"--resolved: only recipes have bases and defaults to write out, not {kind}")
    if kind in _FILES:
        path = _shipped_file(kind, name)
        text = _resolved(path) if resolved else path.read_text(encoding="utf-8")
        echo_json({"kind": kind, "name": name, "origin": str(path), "text": text}) if as_json else typer.echo(text)
        return
    try:
        entry = registry(kind).get(name)
    except LookupError as error:
        raise UserError(str(error.args[0])) from None
    doc, keys = inspect.getdoc(entry.cls) or "", list(keys_of(entry.cls.Config))
    if as_json:
        echo_json({"kind": kind, "name": name, "origin": entry.origin, "doc": doc, "keys": keys})
        return
    typer.echo(f"{registry(kind).kind} '{name}'\nfrom {entry.origin}\n\n{doc}\n")
    echo_table("keys", keys)


def timed_plugins() -> list[Plugin]:
    """Every plugin, loaded after all built-in components, so that its time is that of its own modules."""
    from fewstep.core import plugins
    from fewstep.core.kinds import KINDS, registry

    if plugins.entry_points():
        with suppress(ImportError, OSError):  # a broken torch, which `fewstep doctor` reports by itself
            for kind in KINDS:
                registry(kind).load_built_in()
    plugins.load_entry_points()
    return plugins.loaded()


def _rows(kind: str) -> list[Row]:
    from fewstep.recipe.compose import display_path

    if kind == "plugins":
        return [
            {
                "name": plugin.name,
                "origin": plugin.origin,
                "file": display_path(Path(plugin.file)) if plugin.file else "",
                "needs": f"fewstep{plugin.needs}" if plugin.needs else "",
                "time": f"{plugin.seconds * 1000:.0f} ms",
                "summary": plugin.error or "loaded",
            }
            for plugin in timed_plugins()
        ]
    if kind in _FILES:
        from fewstep.recipe.shipped import shipped_recipes, shipped_suites, summary

        files = shipped_recipes() if kind == "recipes" else shipped_suites()
        return [{"name": name, "origin": display_path(path), "summary": summary(path)} for name, path in files.items()]
    from fewstep.core.kinds import registry

    return [
        {"name": e.name, "origin": " ".join(e.distribution).strip(), "summary": e.summary}
        for e in registry(kind).entries()
    ]


def _shipped_file(kind: str, name: str) -> Path:
    from fewstep.recipe.shipped import find_shipped

    return find_shipped("suite" if kind == "suites" else "recipe", name)


def _resolved(path: Path) -> str:
    """The recipe as a training of it would store it."""
    from fewstep.recipe import dump_recipe, load_recipe

    return dump_recipe(load_recipe(path).recipe).rstrip("\n")


def keys_of(config: type[Strict], prefix: str = "") -> Iterator[Row]:
    """One row for each key, including the keys of nested sections."""
    from pydantic_core import to_jsonable_python

    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields") and not _kind(field):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
            continue
        required = field.is_required()
        default = (
            "required" if required else json.dumps(to_jsonable_python(field.get_default(call_default_factory=True)))
        )
        yield {"key": prefix + name, "type": _type(field), "default": default, "description": field.description or ""}


def _kind(field: FieldInfo) -> str:
    """Kind of a field's component; empty for a field of plain values."""
    from fewstep.core.fields import From
    from fewstep.core.kinds import registry

    return next((registry(part.kind).kind for part in field.metadata if isinstance(part, From)), "")


def _limits_only(annotation: object) -> object:
    """The type with its limits, without validators and marks, which mean nothing to a person."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, limits = _limits_only(parts[0]), [p for p in parts[1:] if any(hasattr(p, name) for name, _ in _SIGNS)]
        annotated: Any = Annotated
        parameters = (base, *limits)
        return annotated[parameters] if limits else base
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, (_limits_only(part) for part in parts))
    if origin is None or origin is Literal:
        return annotation
    return origin[tuple(part if part is Ellipsis else _limits_only(part) for part in parts)]


def _type(field: FieldInfo) -> str:
    if kind := _kind(field):
        return kind
    text = re.sub(
        r"\b(typing|annotated_types|fewstep|pydantic)[\w.]*\.(?=\w)",
        "",
        inspect.formatannotation(_limits_only(field.annotation)),
    )
    limits: list[Any] = []
    for part in field.metadata:
        limits += [f"{sign} {getattr(part, name)}" for name, sign in _SIGNS if hasattr(part, name)]
    return " ".join([text, ", ".join(limits)]).strip()
