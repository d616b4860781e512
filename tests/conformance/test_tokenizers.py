"""Every registered tokenizer keeps its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewstep.data.text.tokenizers.base import TOKENIZERS
from fewstep.testing.tokenizers import check_tokenizer

CONFIGS: list[dict[str, Any]] = [
    {"type": "char"},
    {"type": "char", "end_symbol": True},
    {"type": "byte"},
    {"type": "sentencepiece", "vocab_size": 330},
    {"type": "sentencepiece", "vocab_size": 90, "byte_fallback": False},
    {"type": "sentencepiece", "vocab_size": 310, "model": "unigram"},
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
def test_tokenizer_conforms(config: dict[str, Any]) -> None:
    check_tokenizer(config)


def test_a_json_of_hugging_face_conforms(tmp_path: Path) -> None:
    check_tokenizer({"type": "huggingface", "path": str(write_tokenizer(tmp_path / "tokenizer.json"))})


def write_tokenizer(file: Path) -> Path:
    """A byte-level BPE as GPT-2 has one, of 300 pieces."""
    library = pytest.importorskip("tokenizers", reason="tokenizers is an optional package")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["to be or not to be, that is the question"] * 5, trainer)
    tokenizer.save(str(file))
    return file


def test_all_of_them_are_checked_here() -> None:
    assert set(TOKENIZERS.names()) == {config["type"] for config in CONFIGS} | {"huggingface"}
