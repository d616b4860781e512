"""What a path holds, read as far as a study needs it: short texts, long text, a table of texts, or pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from fewstep.bench.studies.looked_at import OwnData
from fewstep.core.echo import shown
from fewstep.core.errors import UserError
from fewstep.data.text.preparation.documents import Document, Rules, read_documents
from fewstep.data.text.preparation.files import TextFile, find_files, format_of, opened, unread_format
from fewstep.data.text.preparation.hub import Rows, is_saved, saved_table
from fewstep.data.text.preparation.tables import DELIMITERS

FEWEST = 200
"""Samples below which a study says nothing."""
_READ = 20_000
"""Texts that are looked at."""
_READ_CHARACTERS = 1 << 23
_LONGEST_SHORT = 63
"""Characters of a short text; all samples of short texts are as long as the longest of them."""
_HELD_OUT = 300
"""Samples to hold out, if that is neither too small a share nor too large."""
_SHARES = (0.02, 0.2)
_ROWS = 50
"""Rows of a table in which columns of text are looked for."""
_WINDOW = 64

TextKind = Literal["auto", "lines", "text"]


@dataclass(frozen=True)
class _Texts:
    """Texts that were looked at.

    Args:
        lengths: characters of each.
        count: number of all texts of the files, estimated from their size if not all were read.
        symbols: number of different characters.
        characters: of all texts together.
    """

    lengths: np.ndarray
    count: int
    symbols: int
    characters: int

    @property
    def longest(self) -> int:
        """Characters that 99 of 100 texts do not exceed."""
        return int(np.percentile(self.lengths, 99)) if len(self.lengths) else 0

    @property
    def are_short(self) -> bool:
        return 0 < self.longest <= _LONGEST_SHORT

    @property
    def look_like_names(self) -> bool:
        """Whether lines of plain text stand alone: shorter than lines of verse or of prose."""
        return len(self.lengths) >= FEWEST and float(np.median(self.lengths)) <= 28 and self.longest <= 40


def look_at_text(path: Path, kind: TextKind, field: str | None) -> OwnData:
    """Text files, tables of texts, or folders of either; or a saved dataset or Parquet, by the library `datasets`.

    Args:
        kind: whether each line (or row) is a sample; "auto" decides by their lengths.
        field: column or key of the texts of a table; None finds the only one.

    Raises:
        UserError: nothing that can be read is there, there is too little of it, or it is not clear which column counts.
    """
    if is_saved(path):
        return _saved(path, field, kind)
    files = find_files(path, "--data")
    for file in files:
        if reason := unread_format(file.path.name):
            raise UserError(f"--data: {reason}")
    tables = [file for file in files if format_of(file.path.name) != "text"]
    if not tables and field is not None:
        raise UserError(f"--field: '{shown(field)}' names a column, and '{path}' is plain text; leave it out")
    if tables:
        return _table(path, files, field or _text_column(path, islice(_rows(tables[0]), _ROWS)), kind)
    lines = _read(files, Rules(documents="line"))
    if kind == "lines" or (kind == "auto" and lines.look_like_names):
        if not lines.are_short:
            raise UserError(
                f"--kind lines: lines of '{path}' have up to {lines.longest} characters, and a sample has at most "
                f"{_LONGEST_SHORT + 1} with its end; leave --kind out to learn windows of the text"
            )
        return _short(path, lines, "one a line", {"documents": "line"})
    return _windows(path, _documents(files), "plain text")


def _table(path: Path, files: list[TextFile], field: str, kind: TextKind) -> OwnData:
    """Texts in a column."""
    texts = _read(files, Rules(documents="line", field=field))
    return _column(path, texts, field, {"documents": "line"}, kind)


def _saved(path: Path, field: str | None, kind: TextKind) -> OwnData:
    """Texts in a column of a dataset that the library `datasets` reads."""
    if not path.exists():
        raise UserError(f"--data: no file '{path}'")
    table = saved_table(path)
    field = field or _text_column(path, islice(table, _ROWS))
    rows = Rows(table, field, f"'{path}'")
    return _column(path, _looked_at(rows.documents(), rows.size or 0), field, {}, kind)


def _column(path: Path, texts: _Texts, field: str, section: dict[str, object], kind: TextKind) -> OwnData:
    """Texts of a column: samples if they are short, else windows of all of them."""
    if field != "text":
        section = {**section, "field": field}
    origin = f"one a row, its '{shown(field)}'"
    if kind != "text" and texts.are_short:
        return _short(path, texts, origin, section)
    if kind == "lines":
        raise UserError(
            f"--kind lines: texts of '{path}' have up to {texts.longest} characters, and a sample has at most "
            f"{_LONGEST_SHORT + 1} with its end; leave --kind out to learn windows of them"
        )
    return _windows(path, (texts, section, None), f"texts of '{shown(field)}'")


def _short(path: Path, texts: _Texts, origin: str, section: dict[str, object]) -> OwnData:
    """A sample for each text, filled up with the end symbol."""
    if texts.count < FEWEST:
        raise UserError(f"--data: '{path}' has {texts.count} texts, and a study needs {FEWEST} or more; add some")
    share = _share(texts.count)
    length = max(8, texts.longest + 1)
    data = {
        "type": "corpus",
        "path": str(path.absolute()),
        **section,
        "packing": "pad",
        "tokenizer": {"type": "char", "end_symbol": True},
        "held_out": share,
        "length": length,
    }
    label = f"{texts.count:,} short texts, {origin}; {texts.symbols} different characters"
    return OwnData("text", label, data, texts.count, length, _long_remark(texts, length))


def _long_remark(texts: _Texts, length: int) -> tuple[str, ...]:
    share = float((texts.lengths >= length).mean())
    return () if not share else (f"{share:.1%} of the texts are longer than {length - 1} characters and are cut there",)


def _windows(path: Path, texts: tuple[_Texts, dict[str, object], str | None], origin: str) -> OwnData:
    """Samples that are windows of the joined texts."""
    read, section, separator = texts
    windows = read.characters // _WINDOW
    if windows < FEWEST:
        raise UserError(
            f"--data: '{path}' has {read.characters:,} characters, and a study needs {FEWEST * _WINDOW:,} or more; add "
            "some"
        )
    data = {
        "type": "corpus",
        "path": str(path.absolute()),
        **section,
        "tokenizer": {"type": "char", "end_symbol": separator is None},
        **({} if separator is None else {"separator": separator}),
        "held_out": _share(windows),
    }
    label = f"{read.characters:,} characters of {origin}, {read.symbols} different ones"
    return OwnData("text", label, data, windows, None)


def _documents(files: list[TextFile]) -> tuple[_Texts, dict[str, object], str | None]:
    """How plain text is cut into documents, of which a share is held out, and what joins them."""
    if len(files) >= FEWEST // 2:
        return _read(files, Rules(documents="file")), {"documents": "file"}, None
    paragraphs = _read(files, Rules(documents="paragraph"))
    if paragraphs.count >= FEWEST // 2:
        return paragraphs, {"documents": "paragraph"}, "\n\n"
    size = max(64, sum(file.size for file in files) // FEWEST)
    pieces = _read(files, Rules(documents="pieces", piece_bytes=size))
    return pieces, {"documents": "pieces", "piece_bytes": size}, ""


def _read(files: list[TextFile], rules: Rules) -> _Texts:
    return _looked_at(read_documents(files, rules), sum(file.size for file in files))


def _looked_at(documents: Iterable[Document], total: int) -> _Texts:
    """The first documents, and what they say of all, whose amount is `total`."""
    lengths, symbols, characters, amount = [], set[str](), 0, 0
    for document in islice(documents, _READ):
        lengths.append(len(document.text))
        symbols.update(document.text)
        characters, amount = characters + len(document.text), document.amount_read
        if characters > _READ_CHARACTERS:
            break
    whole = len(lengths) < _READ and characters <= _READ_CHARACTERS
    factor = 1.0 if whole or not amount else max(1.0, total / amount)
    return _Texts(np.array(lengths), round(factor * len(lengths)), len(symbols), round(factor * characters))


def _share(samples: int) -> float:
    """Held-out share of so many samples."""
    low, high = _SHARES
    return round(min(high, max(low, _HELD_OUT / samples)), 3)


def _text_column(path: Path, first: Iterable[Mapping[str, object]]) -> str:
    """The column or key of a table that holds its texts, by its first rows.

    Raises:
        UserError: there is none, or several.
    """
    rows = list(first)
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [name for name in names if _is_text([row.get(name) for row in rows])]
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    columns = ", ".join(map(repr, map(shown, texts or names))) or "none"
    reason = "holds texts in several columns" if texts else "has no column of texts"
    raise UserError(f"--field: '{path}' {reason} ({columns}); name the one to learn with --field")


def _is_text(values: Sequence[object]) -> bool:
    """Whether most values are texts and not numbers."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return len(texts) > len(values) / 2 and sum(not _is_number(text) for text in texts) > len(texts) / 2


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _rows(file: TextFile) -> Iterator[dict[str, object]]:
    """Rows of a table as far as they can be read; reading the texts reports what is wrong."""
    kind = format_of(file.path.name)
    with opened(file) as (stream, _):
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        if kind in DELIMITERS:
            yield from csv.DictReader(lines, delimiter=DELIMITERS[kind])
            return
        for line in filter(str.strip, lines):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row
