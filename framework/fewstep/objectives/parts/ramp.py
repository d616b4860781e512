"""A whole number that changes during a training, such as the k of moment matching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidatorFunctionWrapHandler, WrapValidator

from fewstep.core.component import Strict


class Ramp(Strict):
    """From one number to another, evenly in the logarithm, over a share of the training; then it stays."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    first: int = Field(alias="from", ge=1, description="the number at the start of the training")
    last: int = Field(alias="to", ge=1, description="the number at the end of the ramp, and from then on")
    over: float = Field(0.5, gt=0, le=1, description="share of the training that the ramp takes")

    def at(self, step: int, steps: int) -> int:
        """The number at a step of a training of so many."""
        progress = min(1.0, step / (self.over * steps))
        return round(self.first * (self.last / self.first) ** progress)


_Count = Annotated[int, Field(ge=1)]
_COUNT: TypeAdapter[int] = TypeAdapter(_Count)


def _count_or_ramp(raw: object, handler: ValidatorFunctionWrapHandler) -> int | Ramp:
    """Errors are of the one that is meant, and not of both."""
    if isinstance(raw, Ramp):
        return raw
    return Ramp.model_validate(raw) if isinstance(raw, Mapping) else _COUNT.validate_python(raw)


CountOrRamp = Annotated[_Count | Ramp, WrapValidator(_count_or_ramp)]
"""A number from 1, or a ramp of such numbers."""
