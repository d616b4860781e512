"""Prepared shards: what they hold, whatever the workers and kills; and what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from local_data import real_data
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.data.base import DATASETS
from fewstep.data.text.corpus import Corpus
from fewstep.data.text.preparation.ordered_processes import in_order
from fewstep.data.text.preparation.source import part_of

DOCUMENTS = [f"Document {i}: " + "many words " * (i % 7) + "Ä" * (i % 3) for i in range(400)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "t.txt").write_text("\n".join(DOCUMENTS), encoding="utf-8")
    return tmp_path / "t.txt"


def settings(text: Path, name: str = "shards", **more: Any) -> dict[str, Any]:
    usual = {"documents": "line", "held_out": 0.1, "shard_bytes": 4096, "length": 16}
    return {"type": "corpus", "path": str(text), "prepared": str(text.parent / name), **usual, **more}


def build(text: Path, name: str = "shards", **more: Any) -> Corpus:
    data = DATASETS.build(settings(text, name, **more))
    assert isinstance(data, Corpus)
    return data


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def expected(part: str) -> list[list[int]]:
    """Ids of the documents of a part, each with its end, by a second way: bytes and 256."""
    return [[*document.encode(), 256] for document in DOCUMENTS if part_of(document, 0.1) == part]


@pytest.mark.parametrize("length", [2, 16, 129])
def test_wrapped_samples_are_the_documents_one_after_the_other(length: int, text: Path) -> None:
    data = build(text, length=length)
    for part, rows in (("train", data.train), ("held_out", data.held_out)):
        stream = [token for document in expected(part) for token in document]
        assert rows is not None
        assert rows[:].flatten().tolist() == stream[: len(stream) // length * length]
    assert len(data.prepared.shards["train"]) > 3
    picked = torch.tensor([len(data.train) - 1, 0, 5, 0])
    assert torch.equal(data.train[picked], data.train[:][picked])


def test_samples_of_a_tokenizer_without_an_end_are_text(text: Path) -> None:
    data = build(text, tokenizer="char", separator="\n", length=8)
    rows = data.train[:4].long()
    assert "".join(data.to_text(rows)) == "".join(data.tokenizer.decode(row) for row in rows.tolist())
    assert data.documents(rows) == [[line] for line in data.to_text(rows)]


def test_padded_samples_are_one_document_each(text: Path) -> None:
    data = build(text, packing="pad", length=40)
    wanted = [(document + [256] * 40)[:40] for document in expected("train")]
    assert data.train[:].tolist() == wanted
    assert data.train[torch.tensor([-1, 3])].tolist() == [wanted[-1], wanted[3]]


def test_one_folder_serves_every_length_and_packing(text: Path) -> None:
    build(text)
    before = contents(text.parent / "shards")
    other = build(text, packing="pad", length=64)
    assert contents(text.parent / "shards") == before
    assert other.fingerprint != build(text).fingerprint


def config_of(raw: dict[str, Any]) -> Corpus.Config:
    config = DATASETS.parse(raw)
    assert isinstance(config, Corpus.Config)
    return config


def test_the_manifest_counts(text: Path) -> None:
    manifest = build(text).prepared.manifest
    for part in ("train", "held_out"):
        documents = expected(part)
        assert manifest["parts"][part] == {"documents": len(documents), "tokens": sum(map(len, documents))}
    assert manifest["sources"][0]["bytes"] == text.stat().st_size


def test_shards_do_not_depend_on_the_number_of_workers(text: Path) -> None:
    for workers in (1, 2, 3):
        tokenizer = {"type": "sentencepiece", "vocab_size": 320}
        config_of(settings(text, f"by-{workers}", tokenizer=tokenizer)).prepare(workers, verify=True)
    folders = [contents(text.parent / f"by-{workers}") for workers in (1, 2, 3)]
    assert folders[0] == folders[1] == folders[2]


SLOWLY = """
import json
import sys, time
from functools import partial
from pathlib import Path
import fewstep.data.text.preparation.prepare as module
from fewstep.data.text.preparation.documents import Rules
from fewstep.data.text.preparation.files import find_files
from fewstep.data.text.preparation.ordered_processes import in_order
from fewstep.data.text.preparation.prepare import Job, prepare
from fewstep.data.text.preparation.source import Files, Source
from fewstep.data.text.tokenizers.base import TOKENIZERS

def slowly(work):
    def wrapped(*args):
        time.sleep(pause)
        return work(*args)
    return wrapped

pause = float(sys.argv[3])
module.publish, module.sha256 = slowly(module.publish), slowly(module.sha256)
source = Source([(Files(find_files(Path(sys.argv[1])), Rules(documents="line")), None)], 0.1)
print("ready", flush=True)
two = partial(in_order, processes=2)
prepare(Job(Path(sys.argv[2]), source, TOKENIZERS.parse("char"), "", 4096, {}), two)
assert "torch" not in sys.modules
"""


def slowly(text: Path, name: str, pause: float) -> subprocess.Popen[str]:
    """A preparation in processes of its own that waits at each file, so that kills fall into all of it."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(text), str(text.parent / name), str(pause)],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FEWSTEP_PLUGINS": "none"},
    )


@pytest.mark.medium
def test_the_killed_end_with_the_same_bytes(text: Path) -> None:
    """SIGKILL at ten random moments."""
    assert slowly(text, "whole", 0).wait() == 0
    generator, kills = random.Random(0), 0
    while not (text.parent / "killed").exists():
        process = slowly(text, "killed", 0.02)
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 10:
            time.sleep(generator.uniform(0, 0.25))
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills > 2
    assert contents(text.parent / "killed") == contents(text.parent / "whole")


def test_a_process_that_dies_is_reported() -> None:
    with pytest.raises(OperationError, match="a process died"):
        list(in_order(lambda item: os._exit(9), [1, 2, 3], 2))
    with pytest.raises(OperationError, match="a process failed: ZeroDivisionError"):
        list(in_order(lambda item: item / 0, [1, 2, 3], 2))
    assert list(in_order(lambda item: item * 2, range(7), 3)) == [(i, 2 * i) for i in range(7)]


def shard(text: Path) -> Path:
    return text.parent / "shards" / "train-00001.safetensors"


def test_a_shard_that_was_cut_off_is_refused(text: Path) -> None:
    build(text)
    shard(text).write_bytes(shard(text).read_bytes()[:-1])
    with pytest.raises(UserError, match=r"shard '.*train-00001.safetensors' has .* bytes and should have"):
        build(text)


def test_a_shard_that_is_missing_is_refused(text: Path) -> None:
    build(text)
    shard(text).unlink()
    with pytest.raises(UserError, match=r"shard '.*train-00001.safetensors' is missing"):
        build(text)


def test_a_shard_of_another_tokenizer_is_refused(text: Path) -> None:
    build(text)
    build(text, "other", tokenizer="char", separator="")
    shard(text).write_bytes((text.parent / "other" / shard(text).name).read_bytes())
    with pytest.raises(UserError, match=r"train-00001.safetensors' was made with another tokenizer"):
        build(text)


def test_bytes_that_changed_are_found_by_verify(text: Path) -> None:
    """Also in shards of earlier versions, whose blocks have no sums."""
    build(text)
    manifest = json.loads((text.parent / "shards" / "manifest.json").read_text())
    del manifest["seal"]
    for entry in manifest["shards"]:
        del entry["blocks"]
    (text.parent / "shards" / "manifest.json").write_text(json.dumps(manifest))
    content = bytearray(shard(text).read_bytes())
    content[-20] ^= 1
    shard(text).write_bytes(content)
    config = config_of(settings(text))
    config.prepare()
    with pytest.raises(UserError, match="is damaged: its SHA-256"):
        config.prepare(verify=True)


@pytest.mark.parametrize("content", [b"", b"no shard", b"\xff" * 40])
def test_what_is_no_shard_is_refused(content: bytes, text: Path) -> None:
    build(text)
    shard(text).write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001.safetensors' is no shard"):
        build(text)


def test_other_settings_and_other_text_are_refused(text: Path) -> None:
    build(text)
    with pytest.raises(UserError, match=r"was prepared with held_out 0.1, and the recipe says 0.2; name another"):
        build(text, held_out=0.2)
    text.write_text(text.read_text() + "more")
    with pytest.raises(UserError, match=r"was prepared from other text: 't.txt': [\d,]+ bytes then, [\d,]+ bytes now"):
        build(text)
    text.unlink()
    build(text)  # shards do not need the text


def test_an_unfinished_folder_of_other_text_is_refused(text: Path) -> None:
    bad = text.read_bytes()
    text.write_bytes(bad + b"\xff")
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte"):
        build(text)
    text.write_bytes(bad)
    assert not (text.parent / "shards").exists()
    with pytest.raises(UserError, match="was begun with other text or settings"):
        build(text)


def test_held_out_files(text: Path) -> None:
    (text.parent / "v.txt").write_text("held out\nand more of it")
    data = build(text, held_out_path=str(text.parent / "v.txt"), length=8)
    assert data.held_out is not None
    assert data.to_text(data.held_out[:]) == ["held out", "<end>and mor", "e of it<end>"]
    assert data.prepared.manifest["parts"]["train"]["documents"] == len(DOCUMENTS)


def test_much_text_wants_a_command(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.data.text.corpus._PREPARED_BY_TRAINING", 100)
    with pytest.raises(UserError, match=r"prepare the data first: `fewstep data prepare RECIPE`"):
        build(text)


def test_samples_that_do_not_fit_in_memory_are_refused(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.data.text.mapped._MAX_TOKENS", 100)
    rows = build(text).train
    with pytest.raises(OperationError, match="too much for memory"):
        rows[:]
    with pytest.raises(IndexError):
        rows[torch.tensor([len(rows)])]


def test_tables_of_hugging_face(text: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is an optional package")
    table = datasets.Dataset.from_dict({"body": DOCUMENTS})
    table.save_to_disk(str(text.parent / "saved"))
    table.to_parquet(str(text.parent / "t.parquet"))
    plain = build(text).train[:]
    for name in ("saved", "t.parquet"):
        config = config_of(settings(text.parent / name, f"of-{name}", field="body"))
        config.prepare(1)
        found: Tensor = DATASETS.build(config).train[:]
        assert torch.equal(found, plain)
    with pytest.raises(UserError, match=r"has no column 'text'; it has body"):
        config_of(settings(text.parent / "saved", "wrong")).prepare()


def test_real_text_trains_on_pieces(tmp_path: Path) -> None:
    path = real_data("tinyshakespeare/input.txt")
    tokenizer = {"type": "sentencepiece", "vocab_size": 1024, "byte_fallback": False}
    config = {"type": "corpus", "path": str(path), "documents": "paragraph", "prepared": str(tmp_path / "p")}
    data = DATASETS.build({**config, "tokenizer": tokenizer, "length": 64})
    assert data.spec.vocab_size == 1024
    first = data.to_text(data.train[:1])[0]
    assert first.startswith("First Citizen:\nBefore we proceed any further, hear me speak.</s>")
