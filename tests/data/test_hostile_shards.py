"""Manifests, headers and tokenizers of a stranger: refused in a sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.core.errors import UserError
from fewstep.data.text.preparation.shards import open_shard, read_manifest
from fewstep.data.text.tokenizers.base import TOKENIZERS
from fewstep.runtime.sealed_json import sealed_json

ENTRY: Any = {"part": "train", "file": "a.safetensors", "tokens": 2, "documents": 1, "sha256": ""}
MANIFEST: Any = {
    "format": 1,
    "settings": {},
    "sources": [],
    "tokenizer": {"config": {"type": "byte"}, "vocab_size": 256, "files": [], "sha256": ""},
    "parts": {},
    "shards": [ENTRY],
}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("tokenizer"),
        lambda m: m["tokenizer"].pop("files"),
        lambda m: m["tokenizer"].update(files=[1]),
        lambda m: m["tokenizer"].update(config=[]),
        lambda m: m.update(shards={"a": 1}),
        lambda m: m.update(shards=[None]),
        lambda m: m.update(parts=[]),
        lambda m: m["shards"][0].update(tokens="2"),
        lambda m: m["shards"][0].update(blocks=["x"]),
        lambda m: m["shards"][0].pop("part"),
    ],
)
def test_a_manifest_without_its_form(change: Callable[[Any], object], tmp_path: Path) -> None:
    manifest = json.loads(json.dumps(MANIFEST))
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == MANIFEST
    change(manifest)
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is no manifest of prepared data"):
        read_manifest(tmp_path)


def test_a_manifest_that_changed(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(sealed_json(MANIFEST)))
    assert read_manifest(tmp_path) == MANIFEST
    file.write_text(file.read_text().replace('"tokens": 2', '"tokens": 3'))
    with pytest.raises(UserError, match=r"manifest.json' is damaged or was changed .* `fewstep data prepare` again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"__metadata__": []},
        {"tokens": {"dtype": "U16", "shape": [], "data_offsets": [0, 4]}},
        {"tokens": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"tokens": {"dtype": "U16", "shape": [2, -7], "data_offsets": [0, 4]}},
        {"tokens": {"dtype": "U16", "shape": [2, 1 << 80], "data_offsets": [0, 4]}},
        {"tokens": {"dtype": "U16", "shape": [2], "data_offsets": [-999, 4]}},
        {"tokens": {"dtype": "U16", "shape": [2]}},
    ],
)
def test_a_header_that_no_shard_has(change: dict[str, object], tmp_path: Path) -> None:
    header: dict[str, object] = {
        "__metadata__": {"tokenizer": "T"},
        "tokens": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]},
        "ends": {"dtype": "I64", "shape": [1], "data_offsets": [4, 12]},
    }

    def write(content: dict[str, object]) -> Path:
        text = json.dumps(content).encode()
        file = tmp_path / "a.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
        return file

    assert open_shard(write(header), ENTRY, "T").tokens.tolist() == [0, 0]
    with pytest.raises(UserError, match=r"a\.safetensors' (is no shard|was made with another)"):
        open_shard(write({**header, **change}), ENTRY, "T")


@pytest.mark.parametrize("files", [{}, {"alphabet.txt": b"\xff"}, {"other": b""}])
def test_files_of_no_tokenizer(files: dict[str, bytes]) -> None:
    with pytest.raises(UserError, match=r"data\.tokenizer: .*alphabet\.txt"):
        TOKENIZERS.build("char").load(files)
    if "alphabet.txt" not in files:
        with pytest.raises(UserError, match=r"data\.tokenizer: its file .* is missing"):
            TOKENIZERS.build("sentencepiece").load(files)
