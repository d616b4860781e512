"""Bytes as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from fewstep.core.component import ComponentConfig
from fewstep.data.text.tokenizers.base import TOKENIZERS, Ids, Tokenizer, check_characters

_END = 256


@TOKENIZERS.register("byte")
class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8, and one symbol (256) that ends a document. Learns nothing and encodes any text."""

    class Config(ComponentConfig):
        type: Literal["byte"] = "byte"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.vocab_size, self.end = _END + 1, _END

    @classmethod
    def size(cls, config: ComponentConfig) -> int | None:
        return _END + 1

    def fit(self, texts: Iterable[str]) -> None:
        pass

    def files(self) -> dict[str, bytes]:
        return {}

    def load(self, files: Mapping[str, bytes]) -> None:
        pass

    def encode(self, text: str) -> list[int]:
        check_characters(text)
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            check_characters(text)
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i != _END).decode("utf-8", errors="replace")

    def symbols(self) -> list[str]:
        return [chr(i) if 32 <= i < 127 else f"<{i:02x}>" for i in range(_END)] + ["<end>"]
