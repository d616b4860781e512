"""Suggestions for unknown names, for messages. Loads no pydantic, so that the command line starts fast."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
