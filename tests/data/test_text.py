"""Text data: tokenizers that lose nothing, windows, and what is told when a file is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from local_data import real_data

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer

TEXT = (
    "To be, or not to be, that is the question:\n  Whether 'tis nobler in the mind to suffer\n\nÄpfel & \ttabs\n" * 30
)


def fitted(vocab_size: int, text: str = TEXT) -> Tokenizer:
    tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": vocab_size, "byte_fallback": False})
    tokenizer.fit([text])
    return tokenizer


def test_pieces_are_fewer_than_characters_and_always_the_same() -> None:
    first, second = fitted(120), fitted(120)
    assert first.encode(TEXT) == second.encode(TEXT)
    assert first.decode(first.encode(TEXT)) == TEXT
    assert len(first.encode(TEXT)) < len(TEXT) / 2
    assert first.vocab_size == 120


def test_impossible_vocabulary_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abab\n" * 5)
    config = {"type": "text", "path": str(tmp_path / "t.txt"), "tokenizer": "sentencepiece", "pieces": 5000}
    with pytest.raises(UserError, match=r"data\.pieces: sentencepiece cannot make 5000 pieces of this text") as caught:
        DATASETS.build(config)
    assert "\n" not in str(caught.value)


def test_unknown_characters_are_named() -> None:
    with pytest.raises(UserError, match="character 'z' does not occur"):
        TOKENIZERS.build({"type": "char", "alphabet": "abc"}).encode("abz")


@pytest.mark.parametrize("tokenizer", ["char", "sentencepiece"])
def test_windows_are_consecutive_text(tokenizer: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    config = {"type": "text", "path": str(tmp_path / "t.txt"), "length": 16, "tokenizer": tokenizer, "pieces": 120}
    data = DATASETS.build(config)
    assert data.train.shape[1] == 16
    whole = data.tokenizer.decode(data.train.flatten().tolist())  # type: ignore[attr-defined]
    assert TEXT.startswith(whole)
    assert len(TEXT) - len(whole) < 16 * 20
    assert len(data.to_text(data.train[:2])) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read"),
        (b"", "is empty"),
        (b"abc\xff\xfe", "is not UTF-8 text \\(byte 3"),
        (b"short", r"data\.length: the text has 5 tokens, fewer than one window of 16"),
    ],
)
def test_a_wrong_file_is_one_sentence(content: bytes | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        DATASETS.build({"type": "text", "path": str(path), "length": 16})


def test_the_language_reference_is_english() -> None:
    data = DATASETS.build("pydocs")
    assert len(data) > 2000
    assert sum(" the " in text for text in data.to_text(data.train[:50])) > 10
    assert int(torch.unique(data.train).numel()) == data.spec.vocab_size


def test_shared_text_trains(tmp_path: Path) -> None:
    data = DATASETS.build({"type": "text", "path": str(real_data("tinyshakespeare/input.txt"))})
    assert data.spec.vocab_size == 65
    assert len(data) == 1_115_394 // 128
