"""The table of recipe keys in docs/recipes.md, made from the models. `python tests/docs/key_table.py` rewrites it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from fewstep.core.fields import From
from fewstep.recipe.models import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs/recipes.md"
START = "<!-- keys, written by tests/docs/key_table.py -->\n"
END = "<!-- end of keys -->\n"


def section(annotation: Any) -> tuple[type[BaseModel], str] | None:
    """The model that a field holds, if it holds one, and what stands between its key and theirs."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.model_fields.keys() != {"type"}:
            return kind, ".ROLE." if "dict" in str(annotation) else "."
    return None


def rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(key, default, description) of every key that is no component's."""
    for name, field in model.model_fields.items():
        below = section(field.annotation)
        if below:
            if field.description:
                yield prefix + name, default(field), field.description
            yield from rows(below[0], f"{prefix}{name}{below[1]}")
        elif not any(isinstance(part, From) for part in field.metadata):
            yield prefix + name, default(field), field.description or ""


def default(field: Any) -> str:
    if field.is_required():
        return "required"
    return f"`{json.dumps(to_jsonable_python(field.get_default(call_default_factory=True)))}`"


def key_table() -> str:
    """The table in Markdown."""
    lines = [f"| `{key}` | {value} | {text} |" for key, value, text in rows(Recipe)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def rewritten(text: str) -> str:
    """The page with the table as it should be."""
    before, rest = text.split(START)
    return f"{before}{START}\n{key_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
