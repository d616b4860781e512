"""Pages of reference, generated from the registries, the command line and the public names of the package."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer.main

import fewstep
import fewstep.testing
from fewstep.cli.catalogue import keys_of
from fewstep.cli.main import app
from fewstep.core.entries import Entry
from fewstep.core.kinds import KINDS, registry


def pages() -> Iterator[tuple[str, str, str]]:
    """(title, path, Markdown) of every page."""
    for kind in KINDS:
        yield kind.replace("_", " ").capitalize(), f"reference/{kind}.md", kind_page(kind)
    yield "Command line", "reference/cli.md", command_line_page()
    yield "Python", "reference/python.md", python_page()
    yield "Plugin kit", "reference/testing.md", kit_page()


def kind_page(kind: str) -> str:
    """One kind of component: every entry with what it does and its keys."""
    entries = "\n".join(entry_section(entry) for entry in registry(kind).entries())
    title = kind.replace("_", " ").capitalize()
    return f"# {title}\n\nWhat `fewstep show {registry(kind).kind.split()[-1]} NAME` prints.\n\n{entries}"


def entry_section(entry: Entry[Any]) -> str:
    """A component as a section: its docstring, then a table of keys."""
    keys = [
        f"| `{key['key']}` | {type_cell(key['type'])} | {code(key['default'])} | {cell(key['description'])} |"
        for key in keys_of(entry.cls.Config)
        if key["key"] != "type"
    ]
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *keys]) if keys else "No keys."
    return f"## {entry.name}\n\n{prose(inspect.getdoc(entry.cls) or '')}\n\n{table}\n"


def type_cell(text: str) -> str:
    """A type, or the values that a key can have."""
    values = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", ""), text)
    return ", ".join(code(part) for part in values.split(", ")) if values != text else code(text)


def prose(docstring: str) -> str:
    """A docstring as Markdown: signs that Markdown would read as its own are escaped outside of code."""
    parts = re.split(r"(`[^`]*`)", docstring.replace("::\n", ":\n"))
    escaped = "".join(
        part if part.startswith("`") else re.sub(r"([<\[\]_]|(?<=\S)\*)", r"\\\1", part) for part in parts
    )
    return re.sub(r"arXiv\s+(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", escaped)


def code(text: str) -> str:
    """Inline code in a table, in which bars need no escape, or nothing."""
    return f"`{' '.join(text.split())}`" if text else ""


def cell(text: str) -> str:
    """Text in a table."""
    return " ".join(text.split()).replace("|", "\\|")


def command_line_page() -> str:
    """Every command with its arguments and options."""
    return "# Command line\n\n" + "\n".join(command_sections(typer.main.get_command(app), "fewstep"))


def command_sections(command: Any, name: str) -> Iterator[str]:
    """A command as a section; of a group, every command in it."""
    if hasattr(command, "commands"):
        for below, part in command.commands.items():
            yield from command_sections(part, f"{name} {below}")
    elif not command.hidden:
        yield command_section(command, name)


def command_section(command: Any, name: str) -> str:
    """Usage, help and options."""
    context = command.context_class(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [f"| {code(left)} | {prose(cell(right))} |" for left, right in filter(None, records) if "--help" not in left]
    table = "\n".join(["| argument or option | meaning |", "|---|---|", *rows]) if rows else ""
    return f"## {name}\n\n```text\n{usage}\n```\n\n{prose(inspect.cleandoc(command.help or ''))}\n\n{table}\n"


def kit_page() -> str:
    """The public names of the plugin kit."""
    objects = {name: getattr(fewstep.testing, name) for name in fewstep.testing.__all__}
    documented = [f"::: {thing.__module__}.{name}\n" for name, thing in objects.items() if callable(thing)]
    return "\n".join(["# Plugin kit\n\nWhat `from fewstep.testing import ...` offers.\n", *documented])


def python_page() -> str:
    """The public names of the package, which mkdocstrings documents."""
    objects = {name: getattr(fewstep, name) for name in fewstep.__all__ if not name.startswith("_")}
    documented = [f"{thing.__module__}.{name}" for name, thing in objects.items() if hasattr(thing, "__qualname__")]
    registries = [f"`{name}`" for name, thing in objects.items() if not hasattr(thing, "__qualname__")]
    head = f"# Python\n\nWhat `from fewstep import ...` offers. Registries: {', '.join(registries)}.\n"
    return "\n".join([head, *(f"::: {name}\n" for name in documented)])
