"""Text in files: every kind of file and layout gives the documents that were written, from any position on."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.core.errors import UserError
from fewstep.data.text.preparation.documents import Position, Rules, read_documents
from fewstep.data.text.preparation.files import find_files
from fewstep.data.text.preparation.source import Files, Source, part_of, sample

TEXT = "erste Zeile Ä\nzweite\n\n= Titel =\nmehr Text ☃\n\nletzte"
LINES = ["erste Zeile Ä", "zweite", "= Titel =", "mehr Text ☃", "letzte"]


def texts(path: Path, start: Position = Position(), **rules: object) -> list[str]:  # noqa: B008
    return [document.text for document in read_documents(find_files(path), Rules(**rules), start)]  # type: ignore[arg-type]


def zstd(content: bytes) -> bytes:
    found: bytes = pytest.importorskip("zstandard", reason="zstandard is an optional package").compress(content)
    return found


def pack_zip(content: bytes, folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", content)
    return (folder / "a.zip").read_bytes()


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ({"documents": "file"}, [TEXT]),
        ({"documents": "line"}, LINES),
        ({"documents": "paragraph"}, ["erste Zeile Ä\nzweite", "= Titel =\nmehr Text ☃", "letzte"]),
        ({"documents": "marked", "marker": "= .* =", "keep_marker": True}, [TEXT[:20], TEXT[22:]]),
        ({"documents": "marked", "marker": "= .* ="}, ["erste Zeile Ä\nzweite", "mehr Text ☃\n\nletzte"]),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst", ".zip"])
def test_layouts_give_the_documents_that_were_written(
    rules: dict[str, str], wanted: list[str], packed: str, tmp_path: Path
) -> None:
    content = TEXT.encode()
    pack: dict[str, Callable[[bytes], bytes]] = {
        "": lambda raw: raw,
        ".gz": gzip.compress,
        ".zst": zstd,
        ".zip": lambda raw: pack_zip(raw, tmp_path),
    }
    (tmp_path / f"t.txt{packed}").write_bytes(pack[packed](content))
    assert [text.rstrip("\n") for text in texts(tmp_path / f"t.txt{packed}", **rules)] == wanted


@pytest.mark.parametrize("size", [16, 17, 18, 19, 20, 1000])
def test_pieces_join_to_the_text_and_cut_no_character(size: int, tmp_path: Path) -> None:
    content = "Ä☃😀 abc\n" * 20
    (tmp_path / "t.txt").write_text(content, encoding="utf-8")
    found = texts(tmp_path / "t.txt", documents="pieces", piece_bytes=size)
    assert "".join(found) == content
    assert all(size <= len(piece.encode()) < size + 4 for piece in found[:-1])


@pytest.mark.parametrize(
    "rules",
    [
        {"documents": "line"},
        {"documents": "paragraph"},
        {"documents": "marked", "marker": "= .* =", "keep_marker": True},
        {"documents": "marked", "marker": "= .* ="},
        {"documents": "pieces", "piece_bytes": 16},
        {"format": "jsonl"},
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_reading_goes_on_after_any_document(rules: dict[str, str], packed: bool, tmp_path: Path) -> None:
    for number in range(3):
        text = f"{number}: {TEXT}\n" * 2
        content = json.dumps({"text": text}) + "\n" if "format" in rules else text
        raw = (content * 2).encode()
        (tmp_path / f"{number}.txt{'.gz' * packed}").write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    files, how = find_files(tmp_path), Rules(**rules)  # type: ignore[arg-type]
    whole = list(read_documents(files, how))
    assert len(whole) >= 6
    for number, document in enumerate(whole):
        rest = list(read_documents(files, how, document.after))
        assert [d.text for d in rest] == [d.text for d in whole[number + 1 :]]
        assert [d.after for d in rest] == [d.after for d in whole[number + 1 :]]


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b/two.txt", "b/one.jsonl", "a.txt", ".hidden/no.txt", "b/picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "from JSON"}\n' if name.endswith("jsonl") else name)
    assert texts(tmp_path) == ["a.txt", "from JSON", "b/two.txt"]
    assert texts(tmp_path / "b" / "*.txt") == ["b/two.txt"]
    assert texts(tmp_path / "**" / "*.txt") == ["a.txt", "b/two.txt"]
    assert [file.name for file in find_files(tmp_path / "b" / "*o*")] == ["one.jsonl", "two.txt"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.txt", b"", "'.*t.txt' is empty"),
        ("t.txt.gz", gzip.compress(b"abc\n" * 5000, mtime=0)[:-9], "'.*t.txt.gz' ends early; fetch it again"),
        ("t.txt.gz", b"no gzip at all", "'.*t.txt.gz' is damaged"),
        ("t.txt.zip", b"no zip at all", "'.*t.txt.zip' is damaged"),
        ("t.txt", b"abc\nde\xff\xfe", r"'.*t.txt' is not UTF-8 text \(byte 6, line 2: invalid start byte\)"),
        ("t.jsonl", b'{"text": "a"}\n{"text": "b"\n', r"'.*t.jsonl', line 2 is not JSON \(Expecting ',' delimiter\)"),
        ("t.jsonl", b'\n{"body": "a"}\n', "line 2 has no text under 'text'; it has 'body'; data.field names the key"),
        ("t.jsonl", b'{"text": 3}\n', "line 1 has no text under 'text'"),
        ("t.jsonl", b'{"text": "\\ud800"}\n', "line 1: 'text' holds half of a surrogate pair"),
        ("t.jsonl", b'{"text": "\xff"}\n', r"is not UTF-8 text \(byte 10, line 1"),
    ],
)
def test_malformed_input_is_one_sentence(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told) as caught:
        texts(tmp_path / name, documents="line")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("place", "value"), [(6, 255), (8, 1)])
def test_an_archive_that_cannot_be_unpacked(place: int, value: int, tmp_path: Path) -> None:
    """It is of a version that does not exist yet, or encrypted."""
    content = bytearray(pack_zip(b"some text", tmp_path))
    content[content.index(b"PK\x01\x02") + place] = value
    (tmp_path / "t.txt.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"t.txt.zip' cannot be unpacked \(.*\); name an unpacked folder"):
        texts(tmp_path / "t.txt.zip")


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_zst_that_was_cut_off_is_told(cut: int, tmp_path: Path) -> None:
    whole = zstd(bytes(range(32, 120)) * 50)
    (tmp_path / "t.txt.zst").write_bytes(whole + whole[:-cut])
    with pytest.raises(UserError, match="ends early"):
        texts(tmp_path / "t.txt.zst")
    (tmp_path / "t.txt.zst").write_bytes(whole + whole)
    assert texts(tmp_path / "t.txt.zst") == [(bytes(range(32, 120)) * 100).decode()]


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        find_files(tmp_path / "none*.txt")
    with pytest.raises(UserError, match=r"no text in folder .*\.txt.*\.jsonl"):
        find_files(tmp_path)


def source(path: Path, share: float = 0.3) -> Source:
    return Source([(Files(find_files(path), Rules(documents="line")), None)], share)


def test_the_split_stays_when_files_are_added(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("\n".join(f"document {i}" for i in range(2000)))
    before = {found.text: part_of(found.text, 0.3) for found in source(tmp_path).documents()}
    (tmp_path / "a.txt").write_text("\n".join(f"document {i}" for i in range(1500, 4000)))
    after = {found.text: part_of(found.text, 0.3) for found in source(tmp_path).documents()}
    assert after.items() >= before.items()
    # 1200 +- 29 of 4000: six standard deviations, odds of 1 in 10^8 for another text
    assert abs(sum(part == "held_out" for part in after.values()) - 1200) < 174


def test_the_sample_is_of_the_training_part_and_does_not_depend_on_files(tmp_path: Path) -> None:
    lines = [f"document {i}" for i in range(300)]
    for name, content in (("one", [lines]), ("two", [lines[200:], lines[:200]])):
        (tmp_path / name).mkdir()
        for number, part in enumerate(content):
            (tmp_path / name / f"{number}.txt").write_text("\n".join(part))
    first, second = (sample(source(tmp_path / name).documents(), 20, 0.3) for name in ("one", "two"))
    assert first == second
    assert len(first) == len(set(first)) == 20
    assert {part_of(text, 0.3) for text in first} == {"train"}
