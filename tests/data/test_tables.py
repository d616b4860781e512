"""CSV and TSV: the texts of a column, whatever stands in them, from any position; and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.core.errors import RecipeError, UserError
from fewstep.data.base import DATASETS
from fewstep.data.text.corpus import Corpus
from fewstep.data.text.preparation.documents import Position, Rules, read_documents
from fewstep.data.text.preparation.files import find_files
from fewstep.recipe import parse_recipe

TEXTS = ['She said "no".', "two\nlines, and a comma", "tab\there", "plain", "a" * 200_000, "Ä ☃", "last"]


def read(path: Path, start: Position = Position(), **rules: Any) -> list[Any]:  # noqa: B008
    return list(read_documents(find_files(path), Rules(**rules), start))


def table(texts: list[str], delimiter: str = ",", end: str = "\r\n") -> bytes:
    file = io.StringIO()
    # The library quotes a line break only if rows end with it.
    quoting = csv.QUOTE_ALL if end == "\r" else csv.QUOTE_MINIMAL
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([["id", "body"], *([number, text] for number, text in enumerate(texts))])
    return file.getvalue().encode()


@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.tsv", "\t"), ("T.CSV", ",")])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_column_is_read_from_any_position(name: str, delimiter: str, end: str, packed: str, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + table(TEXTS, delimiter, end)
    (tmp_path / (name + packed)).write_bytes(gzip.compress(content) if packed else content)
    documents = read(tmp_path, field="body")
    assert [document.text for document in documents] == TEXTS
    for number, document in enumerate(documents):
        assert [d.text for d in read(tmp_path, document.after, field="body")] == TEXTS[number + 1 :]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=5))
def test_any_text_comes_back(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tables")
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        (folder / name).write_bytes(table(texts, delimiter))
        expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        assert [d.text for d in read(folder / name, field="body")] == [text for text in expected if text.strip()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,body\n1,a\n", r"data.field: '.*t.csv' has no column 'text'; its first line names 'id', 'body'"),
        (b"text,text\n1,a\n", "has several columns 'text'"),
        (b"id,text\n1,a\n2,b,c\n", "line 3 has 3 fields, and the first line has 2"),
        (b'id,text\n1,"a\n\n2,b\n', r"line 2 is no row of a table \("),
        (b'id,text\n1,"a" b\n', r"line 2 is no row of a table \("),
        (b"id,text\n1,\xff\n", "is not UTF-8 text"),
    ],
)
def test_a_broken_table_is_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def corpus(path: Path, **settings: Any) -> Corpus:
    raw = {"type": "corpus", "path": str(path), "prepared": str(path.parent / "shards"), "length": 8, "held_out": 0}
    data = DATASETS.build({**raw, **settings})
    assert isinstance(data, Corpus)
    return data


def test_a_csv_makes_a_sample_of_each_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(table(["one", "two", "three"]))
    data = corpus(tmp_path / "t.csv", field="body", packing="pad")
    assert len(data) == 3


def test_a_field_that_is_ignored_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("one text\n" * 5)
    with pytest.raises(UserError, match=r"data.field: 'body' names a key or a column, and plain text has none"):
        corpus(tmp_path / "t.txt", field="body")
    for others in ({"path": "t.txt"}, {"path": "texts", "format": "text"}):
        with pytest.raises(RecipeError, match=r"data.field: names a key or a column, and plain text has none"):
            recipe(field="body", **others)
    recipe(path="t.csv", field="body")
    recipe(path="t.txt")


@pytest.mark.parametrize("name", ["t.json", "t.xlsx", "t.pdf", "t.json.gz", "t.tar", "T.XLSX", "t.npy", "t.docx"])
def test_other_formats_are_refused_with_those_that_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('[{"text": "a"}]')
    message = r"'.*' is .*, which is not read; convert it to one of .txt, .*.jsonl, .*.csv, .tsv .*.gz.* or .parquet"
    with pytest.raises(UserError, match=f"data.path: {message}"):
        corpus(tmp_path / name)
    with pytest.raises(RecipeError, match=f"data.path: {message}"):
        recipe(path=name)
    if not name.endswith(".gz"):
        assert len(corpus(tmp_path / name, format="text", length=4, documents="line")) == 4, "said to be text"


def recipe(**data: Any) -> None:
    """Check a recipe with these data."""
    parse_recipe(
        {
            "name": "r",
            "data": {"type": "corpus", **data},
            "process": "masked",
            "backbone": {"type": "transformer", "width": 32, "depth": 1, "heads": 2},
            "objective": "denoising",
            "train": {"steps": 1, "batch_size": 2},
        }
    )
