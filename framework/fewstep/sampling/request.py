"""What a person asks of `fewstep sample`. Loads no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewstep.core.errors import UserError


@dataclass(frozen=True)
class Part:
    """The share of process `index` (from 1) of `of`."""

    index: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> Part:
        """`I/N`; without it what torchrun says in RANK and WORLD_SIZE, or all.

        Raises:
            UserError: the text is something else.
        """
        if text is None:
            if "RANK" in environment and "WORLD_SIZE" in environment:
                return cls(int(environment["RANK"]) + 1, int(environment["WORLD_SIZE"]))
            return cls()
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--part: expected I/N with I from 1 to N, such as 1/4, not '{text}'")
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True)
class SampleRequest:
    """How many samples, how they are drawn, and where they go; None leaves a setting to the model's recipe.

    Args:
        count: samples.
        steps: of the sampler; what the model is made for if None.
        out: folder to write; inside the run folder if None.
        label: a class, or "all" for each in turn; None draws them as often as the data have them.
        sampler: YAML that takes the place of the recipe's sampler.
        prompt: text that every sample starts with.
        infill: file of templates, of which each sample keeps the tokens that are there.
        blank: the character of a text template that stands for a token to draw.
        batch_size: samples drawn at once; sized to memory if None. It does not change the samples.
        part: which share of the samples this process draws.
        resume: continue what an interrupted job left in the folder.
        animate: also show how the first samples came about.
    """

    count: int = 16
    steps: int | None = None
    seed: int = 0
    out: str | None = None
    weights: Literal["ema", "raw"] = "ema"
    temperature: float | None = None
    top_p: float | None = None
    guidance: float | None = None
    label: str | None = None
    sampler: str | None = None
    prompt: str | None = None
    infill: str | None = None
    blank: str | None = None
    batch_size: int | None = None
    part: Part = Part()
    resume: bool = False
    animate: bool = False

    @property
    def settings(self) -> dict[str, float]:
        """Settings of the sampler that it changes."""
        asked = {"temperature": self.temperature, "top_p": self.top_p, "guidance": self.guidance}
        return {key: value for key, value in asked.items() if value is not None}
