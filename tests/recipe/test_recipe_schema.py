"""The JSON schema that editors use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from fewstep.core.component import Strict
from fewstep.metrics.base import METRICS, Metric, MetricConfig
from fewstep.recipe.models import Recipe
from fewstep.recipe.schema import recipe_schema

GOOD: dict[str, Any] = {
    "name": "x",
    "data": "coins",
    "process": {"type": "masked", "schedule": {"type": "cosine"}},
    "backbone": {"type": "transformer", "width": 32},
    "objective": "denoising",
    "train": {"steps": 10, "batch_size": 4},
    "evaluate": {"steps": [1, 2], "metrics": ["sample_entropy"]},
    "teacher": None,
}
TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


class Corner(Strict):
    size: int = 1


def fits(schema: Any, value: Any, root: Any) -> bool:
    """The part of JSON schema that ours uses."""
    if "$ref" in schema:
        siblings = {key: item for key, item in schema.items() if key != "$ref"}
        return fits({**siblings, **resolve(schema["$ref"], root)}, value, root)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = schema.get("type")
    rules = [
        kind is None or (number and (kind == "number" or isinstance(value, int)) if kind in ("number", "integer")
                         else isinstance(value, TYPES[kind])),
        "const" not in schema or value == schema["const"],
        "enum" not in schema or value in schema["enum"],
        "anyOf" not in schema or any(fits(option, value, root) for option in schema["anyOf"]),
        all(fits(option, value, root) for option in schema.get("allOf", [])),
        not number or value > schema.get("exclusiveMinimum", -1e99),
        not number or value >= schema.get("minimum", -1e99),
    ]  # fmt: skip
    if isinstance(value, dict):
        known = schema.get("properties", {})
        extra = schema.get("additionalProperties", True)
        rules += [key in value for key in schema.get("required", [])]
        rules += [fits(known[key], item, root) for key, item in value.items() if key in known]
        rules += [extra is not False and (extra is True or fits(extra, item, root))
                  for key, item in value.items() if key not in known]  # fmt: skip
    if isinstance(value, list) and "items" in schema:
        rules += [fits(schema["items"], item, root) for item in value]
    return all(rules)


def resolve(ref: str, root: Any) -> Any:
    node = root
    for step in ref.removeprefix("#").split("/")[1:]:
        node = node[step]
    return node


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.fixture(scope="module")
def schema() -> Any:
    return recipe_schema()


def accepts(schema: Any, value: Any) -> bool:
    return fits(schema, value, schema)


def test_it_is_json_and_every_reference_resolves(schema: Any) -> None:
    assert json.loads(json.dumps(schema)) == schema
    found = list(references(schema))
    assert found
    assert all(resolve(ref, schema) for ref in found)


def test_a_good_recipe_is_accepted(schema: Any) -> None:
    Recipe.model_validate(GOOD)
    assert accepts(schema, GOOD)


@pytest.mark.parametrize(
    "change",
    [
        {"nmae": "x"},
        {"data": "no_such_data"},
        {"backbone": {"type": "transformer", "widht": 3}},
        {"process": {"type": "masked", "schedule": {"type": "cosine", "esp": 1}}},
        {"process": {"type": "masked", "schedule": "cosin"}},
        {"train": {"steps": "ten"}},
        {"train": {"steps": 0}},
        {"evaluate": {"metrics": ["no_such_metric"]}},
        {"evaluate": {"metrics": "sample_entropy"}},
    ],
)
def test_a_wrong_recipe_is_rejected(schema: Any, change: dict[str, Any]) -> None:
    assert not accepts(schema, {**GOOD, **change})


def test_only_a_file_that_extends_nothing_must_be_complete(schema: Any) -> None:
    assert not accepts(schema, {"name": "x"})
    assert accepts(schema, {"name": "x", "extends": "base.yaml"})
    assert accepts(schema, {"extends": "base.yaml", "train": {"batch_size": 3}, "backbone": {"width": 3}})
    assert not accepts(schema, {"extends": ["a.yaml"], "name": "x"})


def test_plugins_are_part_of_it_and_what_their_configs_refer_to() -> None:
    with METRICS.snapshot():

        @METRICS.register("corners")
        class Corners(Metric):
            """Counts corners."""

            class Config(MetricConfig):
                type: Literal["corners"] = "corners"
                left: Corner = Corner()
                right: Corner = Corner()
                needed: int

            update = compute = lambda self, *args: None

        schema = recipe_schema()
    assert all(resolve(ref, schema) for ref in references(schema))
    good = {"type": "corners", "needed": 1, "left": {"size": 2}}
    assert accepts(schema, {**GOOD, "evaluate": {"metrics": [good]}})
    assert not accepts(schema, {**GOOD, "evaluate": {"metrics": [{**good, "left": {"sise": 2}}]}})
    # It has a key without a default, so its bare name is not enough.
    assert not accepts(schema, {**GOOD, "evaluate": {"metrics": ["corners"]}})
    assert "Counts corners." in json.dumps(schema)


def test_samplers_that_hold_samplers_hold_none_of_their_own_kind(schema: dict[str, Any]) -> None:
    """Else the schema would have no end."""
    outer = {choice.get("title"): choice for choice in schema["properties"]["sampler"]["anyOf"]}
    inner = {choice.get("title") for choice in outer["semi_autoregressive"]["properties"]["inner"]["anyOf"]}
    assert "confidence" in inner
    assert "semi_autoregressive" not in inner
