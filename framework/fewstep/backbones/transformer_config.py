"""Settings that all built-in transformers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewstep.backbones.attention import AttentionName
from fewstep.core.component import ComponentConfig
from fewstep.core.recipe_view import RecipeView


class NetworkConfig(ComponentConfig):
    """Options that do not depend on the kind of network."""

    tie_weights: bool = Field(
        False, description="the head's weight is the embedding's (arXiv 1608.05859): V x D fewer parameters"
    )
    activation_checkpointing: bool = Field(
        False, description="compute blocks again in the backward pass instead of keeping them: less memory, slower"
    )


ResidualStream = Literal["fp32", "bf16"]


class TransformerConfig(NetworkConfig):
    """Size and options of a stack of transformer blocks."""

    head_multiple: ClassVar[int] = 2
    """What the head dimension must be a multiple of: two channels a rotation, for each position axis."""

    width: int = Field(128, gt=0, description="channels of the residual stream (D)")
    depth: int = Field(4, gt=0, description="blocks")
    heads: int = Field(4, gt=0, validate_default=True, description="attention heads; must divide width")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden channels of the MLP, as a multiple of width")
    qk_norm: bool = Field(False, description="RMS-normalise queries and keys (steadier at high rates, slower on CPU)")
    attention: AttentionName = Field(
        "auto",
        description="auto: on a GPU xformers, sdpa, or with masks flex, whichever is fastest there; else sdpa. flex is "
        "PyTorch's FlexAttention",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of each branch's channels dropped in training")

    @field_validator("heads")
    @classmethod
    def _heads_divide_width(cls, heads: int, info: ValidationInfo) -> int:
        width = info.data.get("width")
        if width is None:
            return heads
        if width % heads:
            raise ValueError(f"heads ({heads}) must divide width ({width})")
        if (width // heads) % cls.head_multiple:
            raise ValueError(
                f"width / heads is {width // heads}; it must be a multiple of {cls.head_multiple} for rotary positions"
            )
        return heads

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        """`attention` must work where the recipe trains."""
        if self.attention == "xformers" and recipe.train.device == "cpu":
            yield "attention", "xformers has no CPU operator; use auto or sdpa, or set train.device to cuda"
        if self.attention == "flex" and recipe.train.device == "cpu":
            yield (
                "attention",
                "FlexAttention has no gradients on a CPU; use auto or sdpa, or set train.device to cuda",
            )


class StreamConfig(TransformerConfig):
    """Settings of transformers whose residual stream may have fewer digits."""

    residual_stream: ResidualStream = Field(
        "fp32",
        description="precision of the sum of all branches under bf16; bf16 halves its memory traffic and rounds each "
        "sum to 8 bits",
    )
