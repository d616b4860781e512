"""Text for messages that may hold values of others: no control characters, nothing longer than a reader wants.

Loads nothing, so that the command line starts fast.
"""

from __future__ import annotations

import re
import unicodedata

LONGEST_VALUE = 80
"""Limit on the characters of a value in a message."""
LONGEST_PATH = 300
"""Limit on the characters of a word with a slash, which may be a path that a reader copies."""
LONGEST_LINE = 4000
"""Limit on the characters of a line of a message."""

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of characters that move the cursor, turn the direction of text, or are no text."""
_LONG_WORD = re.compile(rf"\S{{{LONGEST_VALUE + 1},}}")


def shown(value: object) -> str:
    """A value of others for a message, in one line of at most 80 characters; a longer one loses its middle."""
    return cut(_escaped(cut(str(value)), keep=""))


def safe_message(text: str, *, lines: bool = True) -> str:
    """A message with control characters escaped and long words cut.

    This is the last guard, for all messages. Values with spaces are cut by `shown`, where a message is written.

    Args:
        lines: keep line breaks.
    """
    text = _LONG_WORD.sub(lambda word: cut(word[0], LONGEST_PATH if "/" in word[0] else LONGEST_VALUE), text)
    text = "\n".join(cut(line, LONGEST_LINE) for line in text.split("\n"))
    return _escaped(text, keep="\n\t" if lines else "")


def printable(text: str) -> str:
    """Text with its control characters escaped, but for line breaks and tabs: a terminal only shows it."""
    return _escaped(text, keep="\n\t")


def cut(text: str, length: int = LONGEST_VALUE) -> str:
    """`text` without its middle. The end stays longer than a closing quote, so that quotes stay closed."""
    if len(text) <= length:
        return text
    end = length // 4
    return f"{text[: length - end - 3]}...{text[-end:]}"


def _escaped(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c not in keep and unicodedata.category(c) in _UNSEEN else c for c in text
    )
