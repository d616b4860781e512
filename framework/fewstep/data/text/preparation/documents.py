"""Documents in text files: their boundaries, their decoding, and the position at which reading resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from fewstep.core.errors import UserError
from fewstep.data.text.preparation.files import PACKED, Format, TextFile, opened
from fewstep.data.text.preparation.lines import Span, decoded, read_lines, without_mark
from fewstep.data.text.preparation.tables import DELIMITERS, Table
from fewstep.runtime.plain_text import plain_text

Layout = Literal["file", "line", "paragraph", "marked", "pieces"]


@dataclass(frozen=True)
class Rules:
    """How a file is divided into documents; recipe keys of the same names describe the fields."""

    format: Literal["auto"] | Format = "auto"
    documents: Layout = "file"
    marker: str = ""
    keep_marker: bool = False
    piece_bytes: int = 1 << 20
    field: str = "text"


class Position(NamedTuple):
    """Position at which reading resumes: number of the file, bytes of its unpacked text, lines before that byte."""

    file: int = 0
    offset: int = 0
    line: int = 0


BEGIN = Position()


class Document(NamedTuple):
    """A text, the position after it, and the number of bytes on disk read up to there."""

    text: str
    after: Position
    amount_read: int


def read_documents(files: list[TextFile], rules: Rules, start: Position = BEGIN) -> Iterator[Document]:
    """Documents of the files, file by file; documents without text are left out.

    Memory holds one document at a time.

    Raises:
        UserError: bytes are not UTF-8, a line is not JSON, or a packed file is damaged or truncated.
    """
    before = sum(file.size for file in files[: start.file])
    for number, file in list(enumerate(files))[start.file :]:
        begin = start if number == start.file else Position(number)
        with opened(file) as (stream, read):
            for text, end, line in _texts(stream, file, rules, begin):
                if text.strip() or (text and rules.documents == "pieces"):
                    yield Document(text, Position(number, end, line), before + read())
        before += file.size


def _texts(stream: BinaryIO, file: TextFile, rules: Rules, begin: Position) -> Iterator[tuple[str, int, int]]:
    """Texts of a file from a place on, each with the offset and line after it."""
    kind = file.format_by(rules.format)
    if kind in DELIMITERS:
        for row in Table(stream, file.path, kind, rules.field).rows(begin.offset):
            yield plain_text(row.text), row.end, row.end_line
        return
    _skip(stream, begin.offset, file)
    for span in _spans(stream, rules, begin, kind == "jsonl"):
        yield _text(span, file.path, rules, kind == "jsonl"), span.end, span.end_line


def _skip(stream: BinaryIO, offset: int, file: TextFile) -> None:
    """Go to an offset; a packed file has no index, so it is unpacked up to there."""
    if not file.path.name.endswith(PACKED):
        stream.seek(offset)
        return
    while offset:
        part = stream.read(min(offset, 1 << 20))
        if not part:
            raise EOFError
        offset -= len(part)


def _spans(stream: BinaryIO, rules: Rules, begin: Position, is_json: bool) -> Iterator[Span]:
    if not is_json and rules.documents in ("file", "pieces"):
        size = -1 if rules.documents == "file" else rules.piece_bytes
        return _pieces(stream, size, begin)
    lines = read_lines(stream, begin.offset, begin.line)
    if is_json or rules.documents == "line":
        return lines
    if rules.documents == "paragraph":
        return _groups(lines, lambda line: not line.strip(), keep=False)
    marker = re.compile(rules.marker.encode())
    return _groups(lines, lambda line: bool(marker.fullmatch(line.rstrip(b"\r\n"))), keep=rules.keep_marker)


def _pieces(stream: BinaryIO, size: int, begin: Position) -> Iterator[Span]:
    """Parts of `size` bytes, each completed to a whole character; -1 gives one part."""
    offset, line, ahead = begin.offset, begin.line, b""
    while content := ahead + stream.read(size - len(ahead) if size > 0 else -1):
        ahead = stream.read(1)
        while ahead and 0x80 <= ahead[0] < 0xC0:
            content, ahead = content + ahead, stream.read(1)
        if content.endswith(b"\r") and ahead == b"\n":  # one line break
            content, ahead = content + ahead, stream.read(1)
        end_line = line + content.count(b"\n")
        yield Span(without_mark(content, offset), offset, line, offset + len(content), end_line)
        offset, line = offset + len(content), end_line


def _groups(lines: Iterable[Span], divides: Callable[[bytes], bool], *, keep: bool) -> Iterator[Span]:
    """Groups of lines up to the next dividing line; with `keep`, that line opens the next group."""
    group: list[Span] = []
    for line in lines:
        if divides(line.content):
            if group:
                yield _joined(group, line.offset, line.line)
            group = [line] if keep else []
        else:
            group.append(line)
    if group:
        yield _joined(group, group[-1].end, group[-1].end_line)


def _joined(lines: list[Span], end: int, end_line: int) -> Span:
    return Span(b"".join(line.content for line in lines), lines[0].offset, lines[0].line, end, end_line)


def _text(span: Span, path: Path, rules: Rules, is_json: bool) -> str:
    """A document's text, without its last line break, unless a document is a file or a piece of bytes."""
    text = decoded(span, path)
    if is_json:
        return _json_text(text, path, span.line + 1, rules.field)
    return text if rules.documents in ("file", "pieces") else text.rstrip("\n")


def _json_text(line: str, path: Path, number: int, field: str) -> str:
    """The text field of a line of JSON; "" for a blank line."""
    if not line.strip():
        return ""
    place = f"data.path: '{path}', line {number}"
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({getattr(error, 'msg', 'nested too deeply')})") from None
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        keys = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) and row else "it is no object with keys"
        raise UserError(f"{place} has no text under '{field}'; {keys}; data.field names the key to read")
    text = plain_text(row[field])
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: '{field}' holds half of a surrogate pair, which is no character") from None
    return text
