"""Pieces of words, learned by the sentencepiece library."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.text.tokenizers.base import (
    TOKENIZERS,
    Ids,
    Tokenizer,
    check_characters,
    learned_file,
    refused_character,
)

_FILE = "tokenizer.model"
_SPACE = "\u2581"
"""The library's own sign for a space, which it also reads as one."""
_RESERVED = re.compile(f"[\n\0\x1f{_SPACE}\u2585]")
"""Characters that make the library skip a line to learn from; a line break is a piece of its own."""
_LINE_BYTES = 4192
"""The library skips longer lines."""


@TOKENIZERS.register("sentencepiece")
class SentencePieceTokenizer(Tokenizer):
    """Pieces learned from a sample of the documents, in one thread, so that the same documents give the same pieces.

    Text is not normalised; spaces and line breaks stay. Ids 0 to 2 are unknown, begin and end.
    """

    learns_from: ClassVar = "sample"
    advice: ClassVar = (
        "set data.tokenizer.byte_fallback to true, data.tokenizer.sample to more documents, or, if a few documents are "
        "all the text, data.documents to cut it into more of them (line)"
    )

    class Config(ComponentConfig):
        type: Literal["sentencepiece"] = "sentencepiece"
        vocab_size: int = Field(8192, ge=16, description="number of pieces, the three special ones included")
        model: Literal["bpe", "unigram"] = Field("bpe", description="algorithm that learns the pieces")
        byte_fallback: bool = Field(
            True, description="256 pieces for bytes encode rare characters; without them such characters are refused"
        )
        sample: int = Field(
            10_000,
            gt=0,
            description="documents learned from: those with the smallest hashes, the first 10,000 characters of each",
        )

    config: Config

    @classmethod
    def size(cls, config: ComponentConfig) -> int | None:
        assert isinstance(config, SentencePieceTokenizer.Config)
        return config.vocab_size

    @property
    def sample(self) -> int:
        return self.config.sample

    def fit(self, texts: Iterable[str]) -> None:
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                vocab_size=self.config.vocab_size,
                model_type=self.config.model,
                byte_fallback=self.config.byte_fallback,
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                user_defined_symbols=["\n"],
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rsplit("] ", 1)[-1] or "there is nothing to learn from"
            raise UserError(
                f"sentencepiece cannot make {self.config.vocab_size} pieces of this text: {reason}"
            ) from None
        self.load({_FILE: model.getvalue()})

    def files(self) -> dict[str, bytes]:
        return {_FILE: self._model}

    def load(self, files: Mapping[str, bytes]) -> None:
        import sentencepiece

        self._model = learned_file(files, _FILE)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
            self._processor.encode(["a"])  # damage such as an empty file shows only here, and that of a piece below
            self.vocab_size = self._processor.get_piece_size()
            self.symbols()
        except (RuntimeError, UnicodeDecodeError):
            raise UserError(f"'{_FILE}' is no model of sentencepiece") from None
        self.end, self._unknown = self._processor.eos_id(), self._processor.unk_id()

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            check_characters(text)
            if _SPACE in text:
                reason = "is the sign of sentencepiece for a space, and would come back as one"
                raise refused_character(text, text.index(_SPACE), reason)
        batch = [np.array(ids, dtype=np.int64) for ids in self._processor.encode(list(texts), num_threads=1)]
        for text, ids in zip(texts, batch, strict=True):
            if (ids == self._unknown).any():
                raise self._refused(text)
        return batch

    def _refused(self, text: str) -> UserError:
        """The error for a text with a character that no piece holds."""
        rare = next(i for i, c in enumerate(text) if self._unknown in self._processor.encode(c))
        if _RESERVED.match(text[rare]):
            return refused_character(text, rare, "is reserved by sentencepiece, which learns no piece with it")
        return refused_character(text, rare, "does not occur in the sample that the pieces were learned from")

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def symbols(self) -> list[str]:
        # A piece marks spaces with U+2581, which only the decoder of a whole text replaces.
        return [str(self._processor.id_to_piece(i)).replace("\u2581", " ") for i in range(self.vocab_size)]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines of texts, cut at what the library cannot read, so that it learns from all the rest."""
    for text in texts:
        for line in _RESERVED.split(text):
            yield from _short(line) if len(line.encode()) > _LINE_BYTES else [line]


def _short(line: str) -> Iterator[str]:
    """Parts of a long line, each up to a space where there is one: pieces do not reach across spaces."""
    longest = _LINE_BYTES // 4  # characters, of up to 4 bytes
    while len(line) > longest:
        cut = line.rfind(" ", 1, longest)
        yield line[: cut if cut > 0 else longest]
        line = line[cut + 1 :] if cut > 0 else line[longest:]
    yield line
