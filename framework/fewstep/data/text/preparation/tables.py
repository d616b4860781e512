"""Texts in a column of CSV and TSV files (RFC 4180): quotes, line breaks within fields, and a header with names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fewstep.core.errors import UserError
from fewstep.data.text.preparation.lines import decoded, read_lines

DELIMITERS = {"csv": ",", "tsv": "\t"}
_FIELD_LIMIT = (1 << 31) - 1
"""The library's own limit of 131,072 characters is less than some documents."""


class Row(NamedTuple):
    """The text of a row, and the offset and line after it."""

    text: str
    end: int
    end_line: int


class _Lines:
    """Decoded lines for the csv library, which takes no more of them than a row needs; knows the place after them."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._spans, self._path = read_lines(stream), path
        self.offset = self.line = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        span = next(self._spans)
        self.offset, self.line = span.end, span.end_line
        return decoded(span, self._path)

    def go_to(self, offset: int) -> None:
        """Pass lines up to the one that ends at `offset`."""
        while self.offset < offset:
            self.offset, self.line = next((span.end, span.end_line) for span in self._spans)


class Table:
    """Rows of a table, from any position.

    Args:
        stream: bytes of the file from its beginning.
        kind: "csv" or "tsv".
        field: column of the text.

    Raises:
        UserError: the header lacks the column, or has it twice.
    """

    def __init__(self, stream: BinaryIO, path: Path, kind: str, field: str) -> None:
        csv.field_size_limit(_FIELD_LIMIT)
        self._path, self._delimiter = path, DELIMITERS[kind]
        self._lines = _Lines(stream, path)
        header = next(self._rows(), (1, []))[1]
        if header.count(field) != 1:
            columns = ", ".join(map(repr, header)) or "none"
            reason = f"has several columns '{field}'" if field in header else f"has no column '{field}'"
            raise UserError(
                f"data.field: '{path}' {reason}; its first line names {columns}; data.field names the column to read"
            )
        self._column, self._width = header.index(field), len(header)

    def rows(self, offset: int = 0) -> Iterator[Row]:
        """Rows after the header, or after the row that ends at `offset`.

        Raises:
            UserError: a row has another number of fields than the header, or a broken quote.
        """
        self._lines.go_to(offset)
        for number, row in self._rows():
            if len(row) != self._width:
                raise UserError(
                    f"data.path: '{self._path}', line {number} has {len(row)} fields, and the first line has "
                    f"{self._width}; a field with a delimiter, a quote or a line break stands in quotes"
                )
            yield Row(row[self._column], self._lines.offset, self._lines.line)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Rows that are not blank, with the number of their first line."""
        reader = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
        while True:
            number = self._lines.line + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f"data.path: '{self._path}', line {number} is no row of a table ({error})") from None
            if row:
                yield number, row
