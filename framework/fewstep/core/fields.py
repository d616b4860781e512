"""`From("kind")`: a pydantic field whose value is the config of a registered component."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class From:
    """Validates a section with the `Config` of the component of its `type`.

    The config is looked up during validation. Plugins may therefore register at any moment, and no union of all
    configs has to be rebuilt.
    """

    kind: str
    optional: bool = False
    """Whether `null` stands for no component."""
    leaf: bool = False
    """Whether the schema omits components that contain a component of this kind; it would be circular otherwise."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from fewstep.core.kinds import registry

        return core_schema.no_info_plain_validator_function(
            lambda raw: None if raw is None and self.optional else registry(self.kind).parse(raw),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda config: config and config.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        from fewstep.core.kinds import registry

        bare: list[str] = []
        choices: list[JsonSchemaValue] = [{"enum": bare, "description": f"{registry(self.kind).kind}, by name"}]
        if self.optional:
            choices.append({"type": "null"})
        for entry in registry(self.kind).entries():
            config = entry.cls.Config
            if self.leaf and _holds(config, self.kind):
                continue
            # The handler collects the references of a config in the $defs of the whole schema.
            section = handler.resolve_ref_schema(handler(config.__pydantic_core_schema__))
            choices.append({**section, "title": entry.name, "description": entry.summary})
            if not any(field.is_required() for field in config.model_fields.values()):
                bare.append(entry.name)
        return {"anyOf": choices}


def _holds(config: type[BaseModel], kind: str) -> bool:
    """Whether a setting of `config` is a component of this kind."""
    parts = (part for field in config.model_fields.values() for part in field.metadata)
    return any(isinstance(part, From) and part.kind == kind for part in parts)
