"""Names and texts in messages: suggestions, and text that a terminal only shows. Loads no pydantic, to start fast."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line break, and those that turn the direction of text."""


def printable(text: str) -> str:
    """Text with its control characters as `\\uXXXX`: a stranger's file could send commands to the terminal."""
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The phrase "; did you mean 'x'?" with the nearest of `known`, or an empty string."""
    names = list(known)
    if len(str(name)) > 2 * max(map(len, names), default=0) + 20:  # unlike all of them, and slow to compare
        return ""
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.55)
    if not near:  # "nosie" is closer to the first word of "noise_input" than to all of it
        words = {full.split("_")[0]: full for full in reversed(names)}
        near = [words[word] for word in difflib.get_close_matches(str(name), words, n=1, cutoff=0.75)]
    return f"; did you mean '{near[0]}'?" if near else ""
