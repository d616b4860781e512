"""Settings of the decoder, which the objective that trains it has."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from fewstep.core.component import ComponentConfig


class DecoderConfig(ComponentConfig):
    """Size of the decoder."""

    width: int | None = Field(None, gt=0, le=65536, description="channels of the decoder; null: the backbone's")
    depth: int | None = Field(None, gt=0, le=1024, description="blocks of the decoder; null: half of the backbone's")
    heads: int = Field(
        2, gt=0, validate_default=True, description="attention heads of the decoder; two channels a head or more"
    )

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
        if reason := _misfit(info.data.get("width"), heads):
            raise ValueError(reason)
        return heads

    def sizes(self, width: int, depth: int) -> tuple[int, int, int]:
        """Width, depth and heads of the decoder beside a backbone of this width and depth."""
        return self.width or width, self.depth or max(1, depth // 2), self.heads

    def misfit(self, width: int | None) -> str | None:
        """Why a decoder beside a backbone of this width cannot be built; None if it can, or the width is not known."""
        return _misfit(self.width or width, self.heads)


def _misfit(width: int | None, heads: int) -> str | None:
    if width is None or width % (2 * heads) == 0:
        return None
    return f"{heads} heads of a decoder of width {width}: the width must be a multiple of {2 * heads}"
