"""Tokenizers: text to ids and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.core.component import Component
from fewstep.core.registry import Registry

Ids = NDArray[np.int64]


class Tokenizer(Component, ABC):
    """Text to ids in [0, vocab_size) and back.

    A tokenizer is made in one of two ways: `fit` on documents (where `learns_from` says that it reads any), or
    `load` of what `files` returned before. The same documents give the same tokenizer, to the byte.

    `end` is the id that ends a document, and fills rows that are longer than theirs; None if there is no such symbol.
    """

    learns_from: ClassVar[Literal["nothing", "sample", "all"]] = "nothing"
    """Documents that `fit` wants: none, a bounded sample, or every one."""
    fixed_pieces: ClassVar[bool] = False
    """Whether every character is one token, whatever stands around it."""
    vocab_size: int
    end: int | None = None

    @abstractmethod
    def fit(self, texts: Iterable[str]) -> None:
        """Learn from documents.

        Raises:
            UserError: they do not suffice for what the settings ask.
        """

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """All that was learned, as files by name."""

    @abstractmethod
    def load(self, files: Mapping[str, bytes]) -> None:
        """Take what `files` returned.

        Raises:
            UserError: they are no files of this tokenizer.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, without `end`.

        Raises:
            UserError: the text holds what this tokenizer cannot write.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of several texts, int64 [tokens] each."""
        return [np.array(self.encode(text), dtype=np.int64) for text in texts]

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of ids; `end` has none."""

    @abstractmethod
    def symbols(self) -> list[str]:
        """The text that each id stands for within a longer one."""


TOKENIZERS: Registry[Tokenizer] = Registry("tokenizer", Tokenizer, "fewstep.data.text.tokenizers")
