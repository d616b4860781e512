"""Documents in text files: their boundaries, their decoding, and the position at which reading resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from fewstep.core.errors import UserError
from fewstep.data.text.preparation.files import TextFile, opened

Layout = Literal["file", "line", "paragraph", "marked", "pieces"]


@dataclass(frozen=True)
class Rules:
    """How a file is divided into documents; recipe keys of the same names describe the fields."""

    format: Literal["auto", "text", "jsonl"] = "auto"
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


class _Span(NamedTuple):
    """Bytes of a document, with the offset and line where they begin and end."""

    content: bytes
    offset: int
    line: int
    end: int
    end_line: int


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
            _skip(stream, begin.offset, file)
            for span in _spans(stream, rules, begin, rules.format == "jsonl" or _is_json(file, rules)):
                text = _text(span, file.path, rules, _is_json(file, rules))
                if text.strip() or (text and rules.documents == "pieces"):
                    after = Position(number, span.end, span.end_line)
                    yield Document(text, after, before + read())
        before += file.size


def _is_json(file: TextFile, rules: Rules) -> bool:
    return rules.format == "jsonl" or (rules.format == "auto" and file.json_lines)


def _skip(stream: BinaryIO, offset: int, file: TextFile) -> None:
    """Go to an offset; a packed file has no index, so it is unpacked up to there."""
    if not file.path.name.endswith((".gz", ".zst", ".zip")):
        stream.seek(offset)
        return
    while offset:
        part = stream.read(min(offset, 1 << 20))
        if not part:
            raise EOFError
        offset -= len(part)


def _spans(stream: BinaryIO, rules: Rules, begin: Position, is_json: bool) -> Iterator[_Span]:
    if not is_json and rules.documents in ("file", "pieces"):
        size = -1 if rules.documents == "file" else rules.piece_bytes
        return _pieces(stream, size, begin)
    lines = _lines(stream, begin)
    if is_json or rules.documents == "line":
        return lines
    if rules.documents == "paragraph":
        return _groups(lines, lambda line: not line.strip(), keep=False)
    marker = re.compile(rules.marker.encode())
    return _groups(lines, lambda line: bool(marker.fullmatch(line.rstrip(b"\r\n"))), keep=rules.keep_marker)


def _lines(stream: BinaryIO, begin: Position) -> Iterator[_Span]:
    offset, line = begin.offset, begin.line
    for content in stream:
        yield _Span(content, offset, line, offset + len(content), line + 1)
        offset, line = offset + len(content), line + 1


def _pieces(stream: BinaryIO, size: int, begin: Position) -> Iterator[_Span]:
    """Parts of `size` bytes, each completed to a whole character; -1 gives one part."""
    offset, line, ahead = begin.offset, begin.line, b""
    while content := ahead + stream.read(size - len(ahead) if size > 0 else -1):
        ahead = stream.read(1)
        while ahead and 0x80 <= ahead[0] < 0xC0:
            content, ahead = content + ahead, stream.read(1)
        end_line = line + content.count(b"\n")
        yield _Span(content, offset, line, offset + len(content), end_line)
        offset, line = offset + len(content), end_line


def _groups(lines: Iterable[_Span], divides: Callable[[bytes], bool], *, keep: bool) -> Iterator[_Span]:
    """Groups of lines up to the next dividing line; with `keep`, that line opens the next group."""
    group: list[_Span] = []
    for line in lines:
        if divides(line.content):
            if group:
                yield _joined(group, line.offset, line.line)
            group = [line] if keep else []
        else:
            group.append(line)
    if group:
        yield _joined(group, group[-1].end, group[-1].end_line)


def _joined(lines: list[_Span], end: int, end_line: int) -> _Span:
    return _Span(b"".join(line.content for line in lines), lines[0].offset, lines[0].line, end, end_line)


def _text(span: _Span, path: Path, rules: Rules, is_json: bool) -> str:
    """A document's text, without its last line break, unless a document is a file or a piece of bytes."""
    try:
        text = span.content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = span.line + span.content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"data.path: '{path}' is not UTF-8 text (byte {span.offset + error.start}, line {line}: {error.reason})"
        ) from None
    if is_json:
        return _json_text(text, path, span.line + 1, rules.field)
    return text if rules.documents in ("file", "pieces") else text.rstrip("\r\n")


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
    text: str = row[field]
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: '{field}' holds half of a surrogate pair, which is no character") from None
    return text
