"""A JSON schema of recipe files, for editors; it includes the installed plugins."""

from __future__ import annotations


def recipe_schema() -> dict[str, object]:
    """Schema of recipe files, which may be incomplete.

    A file with `extends` may leave out any key. Only a file without it has required keys, and only at the top level;
    `fewstep validate` checks the other levels.
    """
    from fewstep.recipe.models import Recipe

    schema = Recipe.model_json_schema()
    required = schema["required"]
    _drop_required(schema)
    extends = {"type": "string", "description": "recipe that this one changes: a path, or a shipped recipe's name"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **schema,
        "title": "fewstep recipe",
        "properties": {"extends": extends, **schema["properties"]},
        "anyOf": [{"required": ["extends"]}, {"required": required}],
    }


def _drop_required(schema: object) -> None:
    """Make every key of every object optional."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            schema.pop("required", None)
        for value in schema.values():
            _drop_required(value)
    elif isinstance(schema, list):
        for value in schema:
            _drop_required(value)
