"""Documents in files of text: where one ends, how it is decoded, and where reading goes on after it."""

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
    """How a file falls into documents; the keys of the same names in a recipe say what they mean."""

    format: Literal["auto", "text", "jsonl"] = "auto"
    documents: Layout = "file"
    marker: str = ""
    keep_marker: bool = False
    piece_bytes: int = 1 << 20
    field: str = "text"


class Position(NamedTuple):
    """Where to read on: number of the file, bytes of its unpacked text, and lines before that."""

    file: int = 0
    offset: int = 0
    line: int = 0


BEGIN = Position()


class Document(NamedTuple):
    """A text, the position after it, and how many bytes on disk were read by then."""

    text: str
    after: Position
    seen: int


class _Span(NamedTuple):
    """Bytes of a document: where they begin, and what lies before and after them."""

    content: bytes
    offset: int
    line: int
    end: int
    end_line: int


def read_documents(files: list[TextFile], rules: Rules, start: Position = BEGIN) -> Iterator[Document]:
    """Documents of files, one file after the other; those without any text are left out.

    Memory holds one document at a time.

    Raises:
        UserError: bytes that are no UTF-8, lines that are no JSON, or a packed file that is damaged or cut off.
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
    """Go to an offset; what is packed has to be unpacked up to there."""
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
    """Parts of `size` bytes, and the rest of a character that begins in them; -1 for everything at once."""
    offset, line, ahead = begin.offset, begin.line, b""
    while content := ahead + stream.read(size - len(ahead) if size > 0 else -1):
        ahead = stream.read(1)
        while ahead and 0x80 <= ahead[0] < 0xC0:
            content, ahead = content + ahead, stream.read(1)
        end_line = line + content.count(b"\n")
        yield _Span(content, offset, line, offset + len(content), end_line)
        offset, line = offset + len(content), end_line


def _groups(lines: Iterable[_Span], divides: Callable[[bytes], bool], *, keep: bool) -> Iterator[_Span]:
    """Lines up to the next that divides; that one opens the next group if it is kept."""
    held: list[_Span] = []
    for line in lines:
        if divides(line.content):
            if held:
                yield _joined(held, line.offset, line.line)
            held = [line] if keep else []
        else:
            held.append(line)
    if held:
        yield _joined(held, held[-1].end, held[-1].end_line)


def _joined(lines: list[_Span], end: int, end_line: int) -> _Span:
    return _Span(b"".join(line.content for line in lines), lines[0].offset, lines[0].line, end, end_line)


def _text(span: _Span, path: Path, rules: Rules, is_json: bool) -> str:
    """A document's text; what ends its last line is no part of it, unless a document is more than lines."""
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
        has = f"it has {', '.join(map(repr, row))}" if isinstance(row, dict) and row else "it is no object with keys"
        raise UserError(f"{place} has no text under '{field}'; {has}; data.field names the key to read")
    text: str = row[field]
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{place}: '{field}' holds half of a surrogate pair, which is no character") from None
    return text
