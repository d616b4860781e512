"""Tokenizers: text to ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.registry import Registry

Ids = NDArray[np.int64]


class Tokenizer(Component, ABC):
    """Text to ids in [0, vocab_size) and back: `decode(encode(text)) == text`, or `encode` refuses the text.

    A tokenizer is made in one of two ways: `fit` on documents, or `load` of the files that `files` returned before.
    The same documents give a byte-identical tokenizer.

    `end` is the id that ends a document and fills rows longer than their document; None if there is no such symbol.
    """

    learns_from: ClassVar[Literal["nothing", "sample", "all"]] = "nothing"
    """Documents that `fit` reads: none, a bounded sample, or all."""
    fixed_pieces: ClassVar[bool] = False
    """Whether every character is one token in any context."""
    advice: ClassVar[str] = ""
    """Way out for a recipe whose documents have a character that is refused, as a clause."""
    vocab_size: int
    end: int | None = None

    @classmethod
    def no_end(cls, config: ComponentConfig) -> str | None:
        """Reason why a tokenizer of these settings has no `end`, and the way to one; None if it has."""
        return None

    @classmethod
    def size(cls, config: ComponentConfig) -> int | None:
        """Number of symbols of a tokenizer of these settings; None if it must be read or learned first."""
        return None

    @property
    def sample(self) -> int:
        """Number of documents that `fit` wants at most, where it learns from a sample."""
        return 0

    @abstractmethod
    def fit(self, texts: Iterable[str]) -> None:
        """Learn from documents.

        Raises:
            UserError: the documents do not suffice for the settings.
        """

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The learned state, as files by name."""

    @abstractmethod
    def load(self, files: Mapping[str, bytes]) -> None:
        """Restore the state that `files` returned.

        Raises:
            UserError: these are not files of this tokenizer.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without `end`; what the text spells out is never a control symbol.

        Raises:
            UserError: `decode` would not return a character of the text; the message names it and its place.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of several texts, int64 [tokens] each."""
        return [np.array(self.encode(text), dtype=np.int64) for text in texts]

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of ids; `end` has no text."""

    @abstractmethod
    def symbols(self) -> list[str]:
        """Text of each id within a longer text, [vocab_size]."""


def learned_file(files: Mapping[str, bytes], name: str) -> bytes:
    """Content of a tokenizer's file.

    Raises:
        UserError: it is not among the files.
    """
    if name not in files:
        raise UserError(f"data.tokenizer: its file '{name}' is missing, or not listed beside the others")
    return files[name]


def refused_character(text: str, index: int, reason: str) -> UserError:
    """The error for the character of a text at `index`; `reason` completes "character 'x' ..."."""
    line, column = text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)
    return UserError(f"character {text[index]!r} {reason} (line {line}, column {column})")


def check_characters(text: str) -> None:
    """Check that a text holds whole characters, as all text read from files does.

    Raises:
        UserError: it holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refused_character(text, error.start, "is half of a surrogate pair, which is no character") from None


TOKENIZERS: Registry[Tokenizer] = Registry("tokenizer", Tokenizer, "fewstep.data.text.tokenizers")
