"""Needs of cases: a case is skipped on a machine that does not meet them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Need = Literal["cuda", "xformers"]
"""A GPU; a GPU and xformers."""


def unmet_need(needs: Sequence[Need]) -> str | None:
    """Why a case cannot run here, as a sentence after "skipped: "; None if it can."""
    if not needs:
        return None
    import torch

    if not torch.cuda.is_available():
        return "it needs a GPU, and torch finds none here"
    if "xformers" in needs:
        from fewstep.backbones.attention import has_xformers

        if not has_xformers():
            return "it needs xformers, which is not installed or cannot be imported"
    return None
