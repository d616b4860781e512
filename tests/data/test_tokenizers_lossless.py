"""No tokenizer loses a character without a word: texts come back, or the symbol and its place are named."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer

ODD = "\x0b\x0c\x1c\x1d\x1e\x1f\x00\x85\u2028\u2029\u2581\u2585\ufeff\ufffd\ud800\r\n\t ÄШ中😀"
WORDS = "to be or not to be, that is the question\nWhether 'tis nobler\rin\x0cthe\x85mind\u2028to\u2029suffer\x0b\x1c."
CONFIGS: dict[str, dict[str, Any]] = {
    "byte": {"type": "byte"},
    "char": {"type": "char"},
    "char-end": {"type": "char", "end_symbol": True},
    "pieces": {"type": "sentencepiece", "vocab_size": 60, "byte_fallback": False},
    "pieces-bytes": {"type": "sentencepiece", "vocab_size": 310},
    "unigram": {"type": "sentencepiece", "vocab_size": 290, "model": "unigram"},
}
TEXTS = st.text(st.characters(codec=None) | st.sampled_from(ODD + WORDS), max_size=40)


@cache
def fitted(name: str) -> Tokenizer:
    tokenizer = TOKENIZERS.build(CONFIGS[name])
    tokenizer.fit([WORDS] * 5)
    return tokenizer


def check_refusal(message: str, text: str) -> None:
    """Assert that a message names a character of the text at its line and column."""
    named = re.match(r"character (?P<symbol>\S+|' ') .*\(line (?P<line>\d+), column (?P<column>\d+)\)", message)
    assert named is not None, message
    after = "\n".join(text.split("\n")[int(named["line"]) - 1 :])
    assert repr(after[int(named["column"]) - 1]) == named["symbol"]


def check_lossless(tokenizer: Tokenizer, text: str) -> None:
    """Assert that a text comes back, or that the error names one of its characters at its place."""
    try:
        ids = tokenizer.encode(text)
    except UserError as error:
        check_refusal(str(error), text)
        return
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, "to be"])[0].tolist() == ids
    assert tokenizer.end not in ids


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=TEXTS)
@example(text=WORDS)
@example(text="\x0c\x85\u2028")
@example(text="a\x00b")
@example(text="one\ntwo\u2581")
@example(text="\u2585\x1f")
@example(text="<end></s><unk><0x41>")
@example(text="half \ud83d")
def test_texts_come_back_or_are_refused(name: str, text: str) -> None:
    check_lossless(fitted(name), text)


@pytest.mark.parametrize("name", CONFIGS)
def test_characters_that_were_learned_come_back(name: str) -> None:
    """Form feed, U+0085, U+2028 and the like are characters of a text as any other, also within its lines."""
    tokenizer = fitted(name)
    assert tokenizer.decode(tokenizer.encode(WORDS)) == WORDS


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_long_lines_are_learned_from(byte_fallback: bool) -> None:
    """The library skips lines of more than 4,192 bytes."""
    text = "once upon a time there was a token " * 200
    size = 290 if byte_fallback else 40
    tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": size, "byte_fallback": byte_fallback})
    tokenizer.fit([text])
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 2, "pieces of several characters were learned"


def test_long_and_short_lines_give_the_same_pieces() -> None:
    """A long line is cut at spaces, where pieces end anyway."""
    words = ["once", "upon", "a", "time", "there", "was", "token"] * 300
    vocabularies = []
    for text in (" ".join(words), "\n".join(words)):
        tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": 40, "byte_fallback": False})
        tokenizer.fit([text])
        vocabularies.append(tokenizer.symbols())
    assert vocabularies[0] == vocabularies[1]


def test_a_long_line_without_spaces_is_learned_from() -> None:
    text = "中文字" * 3000
    tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": 16, "byte_fallback": False})
    tokenizer.fit([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", "\n\n", "\x00"])
def test_nothing_to_learn_from_is_a_reason(text: str) -> None:
    tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": 300})
    with pytest.raises(UserError, match=r"cannot make 300 pieces of this text: there is nothing to learn from$"):
        tokenizer.fit([text])


def test_a_symbol_that_pieces_lack_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("to be or not to be\n" * 20 + "a\u2581b", encoding="utf-8")
    config = {"type": "text", "path": str(tmp_path / "t.txt"), "tokenizer": "sentencepiece", "pieces": 26}
    with pytest.raises(UserError, match=r"^data\.tokenizer: character '▁' .*\(line 21, column 2\)"):
        DATASETS.build({**config, "length": 4})


def huggingface(file: Path, **changes: Any) -> Tokenizer:
    """A byte-level BPE with special tokens, fitted; `changes` are keys of its JSON."""
    library = pytest.importorskip("tokenizers", reason="tokenizers is an optional package")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "[MASK]"],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 5, trainer)
    file.write_text(json.dumps({**json.loads(tokenizer.to_str()), **changes}), encoding="utf-8")
    ours = TOKENIZERS.build({"type": "huggingface", "path": str(file)})
    ours.fit([])
    return ours


def test_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    tokenizer = huggingface(tmp_path / "tokenizer.json")
    text = "a <|endoftext|> in a text, and a [MASK]"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    names = [tokenizer.symbols()[i] for i in ids]
    assert tokenizer.end not in ids
    assert "[MASK]" not in names
    assert tokenizer.encode_batch([text])[0].tolist() == ids


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.lists(TEXTS | st.sampled_from(["<|endoftext|>", "[MASK]"]), max_size=4).map("".join))
def test_texts_come_back_from_tokenizers_of_hugging_face(byte_level: Tokenizer, text: str) -> None:
    check_lossless(byte_level, text)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return huggingface(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_a_tokenizer_that_changes_texts_is_refused(tmp_path: Path) -> None:
    tokenizer = huggingface(tmp_path / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert tokenizer.decode(tokenizer.encode("small letters")) == "small letters"
    with pytest.raises(UserError, match=r"^character 'C' comes back as 'c' from this tokenizer \(line 2, column 3\)"):
        tokenizer.encode("no\na Capital")
    cut = huggingface(tmp_path / "strip.json", normalizer={"type": "Strip", "strip_left": True, "strip_right": True})
    with pytest.raises(UserError, match=r"^character ' ' is lost by this tokenizer \(line 1, column 4\)"):
        cut.encode("end ")


@pytest.mark.parametrize("content", [b"", b"\0" * 20, b"no model"])
def test_a_model_that_sentencepiece_does_not_read(content: bytes) -> None:
    tokenizer = TOKENIZERS.build({"type": "sentencepiece", "vocab_size": 300})
    with pytest.raises(UserError, match="is no model of sentencepiece"):
        tokenizer.load({"tokenizer.model": content})
