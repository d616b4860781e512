"""The request behind `fewstep sample`. Loads no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewstep.core.errors import UserError

MAX_COUNT = 10**9
"""Limit of numbers of samples and of steps."""


@dataclass(frozen=True)
class Part:
    """The share of process `index` (from 1) out of `of` processes."""

    index: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def parse(cls, text: str | None, environment: Mapping[str, str] = os.environ) -> Part:
        """Parse `I/N`. Without a text, torchrun's RANK and WORLD_SIZE count; without them, the part is everything.

        Raises:
            UserError: the text is not of that form.
        """
        if text is None:
            if "RANK" in environment and "WORLD_SIZE" in environment:
                return cls(int(environment["RANK"]) + 1, int(environment["WORLD_SIZE"]))
            return cls()
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UserError(f"--part: expected I/N with I from 1 to N, such as 1/4, not '{text[:40]}'")
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True)
class SampleRequest:
    """Number, settings and destination of samples; None leaves a setting to the model's recipe.

    Args:
        count: number of samples.
        steps: steps of the sampler; None takes the steps that the model was trained for.
        out: folder to write; None makes one inside the run folder.
        label: a class, or "all" for each in turn; None draws classes with their frequency in the data.
        sampler: YAML, or keys with values, that replaces the recipe's sampler.
        prompt: text at the start of every sample.
        infill: file of templates; each sample keeps the fixed tokens of its template.
        blank: character of a text template that marks a token to draw.
        batch_size: samples drawn at once; None sizes it to memory. It does not change the samples.
        device: "auto", "cpu" or "cuda". It does not change the samples, but by rounding.
        part: share of the samples that this process draws.
        resume: continue an interrupted job in the folder.
        animate: also show the steps of the first samples.
        compile: whether the network's trunk is compiled; see `runtime.compiling`. It does not change the samples, but
            by rounding.
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
    sampler: str | Mapping[str, object] | None = None
    prompt: str | None = None
    infill: str | None = None
    blank: str | None = None
    batch_size: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    part: Part = Part()
    resume: bool = False
    animate: bool = False
    compile: Literal["off", "auto", "trunk"] = "off"

    @property
    def settings(self) -> dict[str, float]:
        """Changed settings of the sampler."""
        settings = {"temperature": self.temperature, "top_p": self.top_p, "guidance": self.guidance}
        return {key: value for key, value in settings.items() if value is not None}
