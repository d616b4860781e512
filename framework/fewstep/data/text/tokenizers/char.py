"""Characters as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

_END = "<end>"
_CODE_POINTS = 0x110000


@TOKENIZERS.register("char")
class CharTokenizer(Tokenizer):
    """One symbol per distinct character of all documents, in code-point order."""

    learns_from: ClassVar = "all"
    fixed_pieces = True

    class Config(ComponentConfig):
        type: Literal["char"] = "char"
        alphabet: str | None = Field(None, min_length=1, description="the characters; null for those that occur")
        end_symbol: bool = Field(False, description="one more symbol that ends a document")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._set_alphabet(self.config.alphabet or "")

    @classmethod
    def no_end(cls, config: ComponentConfig) -> str | None:
        assert isinstance(config, CharTokenizer.Config)
        if config.end_symbol:
            return None
        return (
            "tokenizer 'char' has no symbol that ends a document; set data.tokenizer to {type: char, end_symbol: true}"
        )

    @classmethod
    def size(cls, config: ComponentConfig) -> int | None:
        assert isinstance(config, CharTokenizer.Config)
        return None if config.alphabet is None else len(set(config.alphabet)) + config.end_symbol

    def fit(self, texts: Iterable[str]) -> None:
        if self.config.alphabet is None:
            characters: set[str] = set()
            for text in texts:
                characters.update(text)
            self._set_alphabet("".join(characters))

    def _set_alphabet(self, characters: str) -> None:
        self.alphabet = sorted(set(characters))
        # A table of all code points encodes a whole text in one numpy call.
        self._ids = np.full(_CODE_POINTS, -1, dtype=np.int64)
        self._ids[[ord(character) for character in self.alphabet]] = np.arange(len(self.alphabet))
        self.end = len(self.alphabet) if self.config.end_symbol else None
        self.vocab_size = len(self.alphabet) + self.config.end_symbol

    def files(self) -> dict[str, bytes]:
        return {"alphabet.txt": "".join(self.alphabet).encode()}

    def load(self, files: Mapping[str, bytes]) -> None:
        try:
            self._set_alphabet(learned_file(files, "alphabet.txt").decode())
        except UnicodeDecodeError:
            raise UserError("data.tokenizer: 'alphabet.txt' is no alphabet: it is not UTF-8 text") from None

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return [self._look_up(text) for text in texts]

    def _look_up(self, text: str) -> Ids:
        check_characters(text)
        ids = self._ids[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        if len(ids) and ids.min() < 0:
            raise refused_character(text, int(ids.argmin()), "does not occur in the training text")
        return ids

    def decode(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids if i != self.end)

    def symbols(self) -> list[str]:
        return self.alphabet + [_END] * self.config.end_symbol
