"""Every registered supervision keeps its contract, and the check finds what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.runtime.streams import Randomness, uniform
from fewstep.supervision.base import SUPERVISIONS, Supervision
from fewstep.testing import check_supervision


@pytest.mark.parametrize("name", SUPERVISIONS.names())
def test_conformance(name: str) -> None:
    check_supervision(name)


def draws(shape: tuple[int, int], generator: Randomness) -> Tensor:
    return uniform(shape, generator, device="cpu", dtype=torch.float32) < 0.5


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda shape, generator: draws(shape, generator)[:, :-1], "has shape"),
        (lambda shape, generator: draws(shape, generator).float(), "not bool"),
        (lambda shape, generator: draws(shape, generator) & False, "no token counts"),
        (lambda shape, generator: torch.rand(shape) < 0.5, "gives another mask"),
        (lambda shape, generator: draws(shape, generator).sort(0).values, "depends on the others"),
        (lambda shape, generator: torch.arange(shape[1]).expand(shape) % 2 == 0, "have the same mask"),
    ],
    ids=["shape", "type", "empty", "another", "others", "same"],
)
def test_what_is_broken_is_found(broken: Callable[[tuple[int, int], Randomness], Tensor], message: str) -> None:
    with SUPERVISIONS.snapshot():

        @SUPERVISIONS.register("broken")
        class Broken(Supervision):
            class Config(ComponentConfig):
                type: Literal["broken"] = "broken"

            def mask(self, shape: tuple[int, int], *, device: torch.device, generator: Randomness) -> Tensor:
                return broken(shape, generator)

        with pytest.raises(AssertionError, match=message):
            check_supervision("broken")
