"""`Component`: a class with its own validated `Config`; `Strict`: the config base that refuses unknown keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from fewstep.core.echo import cut, shown
from fewstep.core.names import did_you_mean
from fewstep.core.recipe_view import RecipeView
from fewstep.core.references import OpenedModel, Opener, Refuses

# Pydantic writes for Python programmers; these are its phrases and their replacements for authors of YAML.
_PREAMBLE = re.compile("^(Value error, |Input |String |Tuple )")
_SHAPES = {
    "model_type": "should be keys with values",
    "dict_type": "should be keys with values",
    "tuple_type": "should be a list",
}


def custom_error(kind: str, message: str) -> PydanticCustomError:
    """A pydantic error with the literal text `message`; as a template, its braces would be replaced."""
    return PydanticCustomError(kind, "{text}", {"text": message})


class Strict(BaseModel):
    """A frozen pydantic model; an unknown key is an error that suggests the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_known_keys(cls, raw: object, handler: ModelWrapValidatorHandler[Strict]) -> Strict:
        try:
            _refuse_large_numbers(cls.__name__, raw)
            return handler(raw)
        except ValidationError as error:
            details = [cls._reworded(e) for e in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, details) from None

    @classmethod
    def _reworded(cls, error: ErrorDetails) -> InitErrorDetails:
        kind, loc, value, context = error["type"], error["loc"], error["input"], error.get("ctx", {})
        if "text" in context:  # a nested section has reworded it
            message = context["text"]
        elif kind == "extra_forbidden":
            message = f"unknown key '{shown(loc[-1])}'{_near_or_known(loc[-1], cls.model_fields)}"
        elif kind == "missing":
            kind, message = "missing_key", f"required key '{loc[-1]}' is missing"
        else:
            message = _SHAPES.get(kind) or _PREAMBLE.sub("", error["msg"]).split(", unable to")[0]
            if kind == "literal_error":
                message += did_you_mean(value, re.findall(r"'([^']*)'", context["expected"]))
            elif isinstance(value, str | int | float | None) and kind != "value_error":
                message += f", not {repr(cut(value)) if isinstance(value, str) else shown(json.dumps(value))}"
        return InitErrorDetails(type=custom_error(kind, message), loc=loc, input=value)


def _refuse_large_numbers(title: str, raw: object) -> None:
    """Refuse whole numbers beyond 64 bits, which torch takes nowhere.

    Raises:
        ValidationError: there are such numbers.
    """
    details = []
    for key, value in raw.items() if isinstance(raw, Mapping) else ():
        for place, number in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(number, int) and not -(2**63) <= number < 2**63:
                loc = (str(key),) if place is None else (str(key), place)
                too_large = custom_error("too_large", "should be a whole number below 2^63")
                details.append(InitErrorDetails(type=too_large, loc=loc, input=None))
    if details:
        raise ValidationError.from_exception_data(title, details)


def _near_or_known(name: str | int, known: Iterable[str]) -> str:
    listed = ", ".join(sorted(known))
    return did_you_mean(name, known) or (f"; known keys: {listed}" if listed else "; no keys are known here")


class ComponentConfig(Strict):
    """Settings of one component; `type` is its registry name.

    Every component declares `type: Literal["its_name"] = "its_name"` in its own `Config`.
    """

    type: str

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        """Yield `(key, message)` for each reason why the component cannot work within `recipe`.

        Keys are relative to the component's own section ("" for the section itself).
        """
        yield from ()


class Component:
    """Base of all components of recipes.

    `config` holds the settings of the recipe; other constructor arguments are run-time objects. A component declares
    `config: Config` below its `Config`, so that a type checker knows each setting by name.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    moved: ClassVar[Mapping[str, str]] = {
        "check_recipe": "move it into its Config, as `def check_recipe(self, recipe)`"
    }
    """Names that a class must not define, since nothing reads them any more, and what to write instead."""
    config: ComponentConfig
    opener: Opener | None = None
    """Function that opens models named by settings; `Registry.build` sets it before the constructor runs."""
    opened: Mapping[str, OpenedModel] = {}
    """Opened models by the dotted key of their setting."""

    def __init__(self, config: ComponentConfig | None = None) -> None:
        self.config = type(self).Config() if config is None else config  # type: ignore[call-arg]

    def open_model(
        self,
        key: str,
        *,
        device: str = "cpu",
        dataset: object = None,
        refuses: Refuses = None,
    ) -> OpenedModel:
        """The model that a setting names (`Annotated[str, Ref("run")]`).

        Args:
            key: the setting, dotted below this component's section ("reward.run").
            device: "auto" is a GPU if there is one, unless the model's recipe trained it on the CPU.
            dataset: data for the model's network, if they are in memory; None loads the data of its recipe. A model is
                opened once, so that later calls return the first one.
            refuses: check of the model's recipe, called before its network is built.

        Raises:
            UserError: the model does not exist, or `refuses` returns a reason.
            UnfitModelError: the model's weights do not fit `dataset`.
        """
        if key not in self.opened:
            assert self.opener is not None, f"'{self.config.type}' names a model: build it with fewstep.build_component"
            model = self.opener(self.config, key, device=device, dataset=dataset, refuses=refuses)
            self.opened = {**self.opened, key: model}
        return self.opened[key]
