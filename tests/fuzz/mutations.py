"""Damage to files and texts: from chance, and of the kind that somebody does on purpose."""

from __future__ import annotations

import random

HOSTILE = (
    "null", "true", "-1", "0", "1e400", ".nan", "-.inf", "9223372036854775807", "9223372036854775808", "1e-320",
    "[]", "{}", "[[[[]]]]", "{type: x}", "[1, 2]", "''", "' '", "*a", "&a [*a]", "!!python/object:os.system x",
    '"\\e[2J"', '"\\u202e"', "../../etc/passwd", "/dev/zero", "${env:HOME}", "digits", "x" * 5000, "0x7fffffff",
    "1_000",
)  # fmt: skip
"""Values in YAML that no setting wants."""
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Content with one to three damages: flipped bits, zeroed or foreign stretches, cuts, repeats, other numbers."""
    for _ in range(draw.randint(1, 3)):
        if not content:
            break
        at = draw.randrange(len(content))
        length = draw.choice((1, 4, 16, 512))
        head, middle, tail = content[:at], content[at : at + length], content[at + length :]
        kind = draw.randrange(7)
        if kind == 0:
            content = head + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        elif kind == 1:
            content = head + bytes(len(middle)) + tail
        elif kind == 2:
            content = head
        elif kind == 3:
            content = head + middle + middle + tail
        elif kind == 4:
            content = head + tail
        elif kind == 5:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) & (1 << 8 * width) - 1
            content = head + number.to_bytes(width, draw.choice(("big", "little"))) + content[at + width :]
        else:
            content = head + draw.choice(HOSTILE).encode() + tail
    return content


def changed_text(text: str, draw: random.Random) -> str:
    """Lines of YAML or JSON with one to three changes: other values, lines lost, repeated, moved or indented."""
    lines = text.split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        kind = draw.randrange(7)
        if kind <= 2:
            key, colon, _ = lines[at].partition(":")
            comma = "," if lines[at].endswith(",") else ""
            lines[at] = f"{key}{colon} {draw.choice(HOSTILE)}{comma}" if colon else draw.choice(HOSTILE)
        elif kind == 3:
            del lines[at]
            lines = lines or [""]
        elif kind == 4:
            lines.insert(draw.randrange(len(lines) + 1), lines[at])
        elif kind == 5:
            lines[at] = " " * draw.randint(1, 3) + lines[at]
        else:
            lines[at] = damaged(lines[at].encode(), draw).decode(errors="replace")
    return "\n".join(lines)
