"""One rule for all readers: no byte order mark, and LF as the only line break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.text.corpus import Corpus
from fewstep.data.text.preparation.documents import Rules, read_documents
from fewstep.data.text.preparation.files import find_files
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.templates import templates

MARK = b"\xef\xbb\xbf"
LINES = ["first line", "second", "", "third"]
TEXT = "\n".join(LINES)


def read(path: Path, **rules: object) -> list[str]:
    return [document.text for document in read_documents(find_files(path), Rules(**rules))]  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_readers_keep_one_rule(end: str, tmp_path: Path) -> None:
    raw = MARK + TEXT.replace("\n", end).encode()
    (tmp_path / "t.txt").write_bytes(raw)
    (tmp_path / "t.jsonl").write_bytes(MARK + json.dumps({"text": TEXT.replace("\n", end)}).encode() + end.encode())
    (tmp_path / "t.csv").write_bytes(MARK + f'text{end}"{TEXT.replace(chr(10), end)}"{end}'.encode())
    text = DATASETS.build({"type": "text", "path": str(tmp_path / "t.txt"), "length": len(TEXT)})
    assert text.to_text(text.train) == [TEXT]
    assert read(tmp_path / "t.txt", documents="file") == [TEXT]
    assert read(tmp_path / "t.txt", documents="line") == [line for line in LINES if line]
    assert [t.rstrip("\n") for t in read(tmp_path / "t.txt", documents="paragraph")] == ["first line\nsecond", "third"]
    assert read(tmp_path / "t.txt", documents="marked", marker="first line") == ["second\n\nthird"]
    assert read(tmp_path / "t.jsonl") == [TEXT]
    assert read(tmp_path / "t.csv") == [TEXT]
    for size in range(16, 24):
        assert "".join(read(tmp_path / "t.txt", documents="pieces", piece_bytes=size)) == TEXT


def test_templates_and_prompts_keep_it_too(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(TEXT.encode() * 3)
    data = DATASETS.build({"type": "text", "path": str(tmp_path / "t.txt"), "length": 12})
    (tmp_path / "infill.txt").write_bytes(MARK + b"fir_t\r\nsec\r\n")
    rows = templates(SampleRequest(count=2, infill=str(tmp_path / "infill.txt")), data)
    assert rows is not None
    assert [data.to_text(row[row >= 0][None])[0] for row in rows] == ["firt", "sec"]
    prompt = templates(SampleRequest(count=1, prompt="a\r\nb".replace("a", "f").replace("b", "s")), data)
    assert prompt is not None
    assert data.to_text(prompt[prompt >= 0][None]) == ["f\ns"]


def test_the_manifest_names_the_rule(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(MARK + b"one\r\ntwo\r\n")
    data = DATASETS.build(
        {"type": "corpus", "path": str(tmp_path / "t.txt"), "prepared": str(tmp_path / "p"), "length": 2, "held_out": 0}
    )
    assert isinstance(data, Corpus)
    assert data.prepared.manifest["reading"] == "UTF-8 without a byte order mark; CRLF and CR are read as LF"
    assert data.prepared.tokenizer.decode(data.train[:].flatten().tolist()) == "one\ntwo\n"


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes("text".encode("utf-16"))
    with pytest.raises(UserError, match=r"is not UTF-8 text .*it begins like UTF-16: save it as UTF-8"):
        read(tmp_path / "t.txt")
