"""Lines of a file as bytes with their places, and their decoding by the rule of `fewstep.runtime.plain_text`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fewstep.core.errors import UserError
from fewstep.runtime.plain_text import BYTE_ORDER_MARK, plain_text

_LONE_CR = re.compile(rb"(?<=\r)(?!\n)")


class Span(NamedTuple):
    """Bytes of a document, with the offset and line where they begin and end."""

    content: bytes
    offset: int
    line: int
    end: int
    end_line: int


def read_lines(stream: BinaryIO, offset: int = 0, line: int = 0) -> Iterator[Span]:
    """Lines up to and with LF, CRLF or CR, from a stream that stands at `offset`; without the byte order mark."""
    for content in stream:
        for part in filter(None, _LONE_CR.split(content)) if b"\r" in content else (content,):
            end = offset + len(part)
            yield Span(without_mark(part, offset), offset, line, end, line + 1)
            offset, line = end, line + 1


def without_mark(content: bytes, offset: int) -> bytes:
    """Bytes from `offset` on, without the byte order mark at the beginning of a file."""
    return content.removeprefix(BYTE_ORDER_MARK) if offset == 0 else content


def decoded(span: Span, path: Path) -> str:
    """Text of a span, with LF as its only line break.

    Raises:
        UserError: the bytes are not UTF-8; the message names file, byte and line.
    """
    try:
        return plain_text(span.content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = span.line + span.content.count(b"\n", 0, error.start) + 1
        place = f"byte {span.offset + error.start}, line {line}: {error.reason}"
        utf16 = span.offset == 0 and span.content[:2] in (b"\xff\xfe", b"\xfe\xff")
        advice = "; it begins like UTF-16: save it as UTF-8" if utf16 else ""
        raise UserError(f"data.path: '{path}' is not UTF-8 text ({place}){advice}") from None
