"""Label input: conditions a network on a class, or on none.

Like a step input it is an adapter beside the backbone, and it starts at zero: a network of a labelled recipe starts as
the network without labels. Unlike a step input, all roles have one, and a role that starts from the teacher copies it.

Shapes: B batch, D width.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from fewstep.core.component import Strict


class LabelInputConfig(Strict):
    """A learned vector for every class of the data and one for "no class", added to the token embedding."""

    init_std: float = Field(0.0, ge=0, description="standard deviation of the vectors' initial values")


class LabelInput(nn.Module):
    """Labels [B], -1 for none -> residual [1, B, 1, D].

    Args:
        config: settings.
        classes: number of classes; labels are below it.
        width: D.
    """

    def __init__(self, config: LabelInputConfig, classes: int, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.vectors = nn.Embedding(classes + 1, width)
        nn.init.normal_(self.vectors.weight, std=config.init_std)

    def forward(self, labels: Tensor) -> Tensor:
        rows = labels.masked_fill(labels < 0, self.classes)
        residual: Tensor = self.vectors(rows)
        return residual[None, :, None]
