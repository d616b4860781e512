"""Data prepared on a cluster: shards byte-identical to local ones, and the same refusals."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed")

from fewstep.cli import main as cli
from fewstep.data.text.preparation.prepare import Encoder, _Batch
from fewstep.data.text.preparation.source import START
from fewstep.data.text.tokenizers.base import TOKENIZERS

RECIPE = "shakespeare-teacher"


def prepare(folder: Path, *options: str) -> int:
    changes = {"path": folder / "t.txt", "documents": "line", "held_out": 0.1, "shard_bytes": 4096}
    sets = [part for key, value in changes.items() for part in ("--set", f"data.{key}={value}")]
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", "prepare", RECIPE, *sets, *options])
    return int(caught.value.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("tokenizer", ["byte", "char", "{type: sentencepiece, vocab_size: 320}"])
def test_shards_are_byte_identical(tokenizer: str, tmp_path: Path, scheduler: str) -> None:
    lines = [f"Document {i}: " + "many words " * (i % 7) + "Ä" * (i % 3) for i in range(400)]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8")
    common = ("--set", f"data.tokenizer={tokenizer}", "--set", 'data.separator="|"')
    assert prepare(tmp_path, *common, "--set", f"data.prepared={tmp_path / 'one'}", "--workers", "1") == 0
    there = ("--set", f"data.prepared={tmp_path / 'there'}", "--cluster", scheduler)
    assert prepare(tmp_path, *common, *there) == 0
    assert contents(tmp_path / "there") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "one")) > 5
    assert {file.name for file in tmp_path.iterdir()} == {"t.txt", "one", "there"}


def test_a_refusal_is_the_local_one(tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.txt").write_text("plain\nä\n", encoding="utf-8")
    messages = []
    for options in (("--workers", "1"), ("--cluster", scheduler)):
        alphabet = ("--set", 'data.tokenizer={type: char, alphabet: "plain"}', "--set", 'data.separator=""')
        assert prepare(tmp_path, *alphabet, "--set", f"data.prepared={tmp_path / 'p'}", *options) == 2
        messages.append(capsys.readouterr().err.splitlines()[-1])
    assert messages[0] == messages[1]
    assert "ä" in messages[0]


def test_an_encoder_is_pickled_without_code_of_its_tokenizer() -> None:
    """Settings and files travel, so that a worker builds it from what is registered there."""
    tokenizer = TOKENIZERS.build({"type": "char"})
    tokenizer.fit(["some text"])
    encoder = Encoder(tokenizer, "e", 0.0)
    again = pickle.loads(pickle.dumps(encoder))
    batch = _Batch(["text", "some"], None, START, 0, True)
    for part, (tokens, lengths) in encoder(batch).items():
        assert np.array_equal(again(batch)[part][0], tokens)
        assert np.array_equal(again(batch)[part][1], lengths)


def test_workers_and_a_cluster_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(tmp_path, "--workers", "2", "--cluster", "tcp://127.0.0.1:9") == 2
    assert "--workers and --cluster exclude each other" in capsys.readouterr().err
