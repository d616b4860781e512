"""Any UTF-8 text file as windows of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.component import ComponentConfig
from fewstep.data.base import DATASETS, Codec, Dataset, DataSpec
from fewstep.data.files import LocalPath, read_utf8
from fewstep.data.tokenizers import CharTokenizer, SentencePieceTokenizer, Tokenizer
from fewstep.errors import UserError


class TextConfig(ComponentConfig):
    """Settings of every dataset that is made of one long text."""

    length: int = Field(128, ge=2, description="tokens a window")
    tokenizer: Literal["char", "sentencepiece"] = Field("char", description="characters, or trained byte-pair pieces")
    pieces: int = Field(512, ge=16, description="vocabulary of the sentencepiece tokenizer")


class TextWindows(Dataset):
    """Consecutive windows of one text; the last, incomplete one is left out."""

    kind = "text"
    tokenizer: Tokenizer

    @classmethod
    def check_recipe(cls, config: Any, recipe: Any) -> Iterator[tuple[str, str]]:
        # A resolved recipe spells the default out, which is no mistake.
        if config.tokenizer == "char" and config.pieces != TextConfig.model_fields["pieces"].default:
            yield "pieces", "a vocabulary of pieces needs `tokenizer: sentencepiece`; characters are all taken"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        text = self.read()
        c = self.config
        self.tokenizer = CharTokenizer(text) if c.tokenizer == "char" else SentencePieceTokenizer(text, c.pieces)
        ids = torch.tensor(self.tokenizer.encode(text), dtype=torch.long)
        windows = ids.numel() // c.length
        if not windows:
            raise UserError(f"data.length: the text has {ids.numel()} tokens, fewer than one window of {c.length}")
        self.train = ids[: windows * c.length].view(windows, c.length)
        self.spec = DataSpec(vocab_size=self.tokenizer.vocab_size, length=c.length)

    def read(self) -> str:
        """The whole text."""
        return read_utf8(Path(self.config.path))

    def to_text(self, samples: Tensor) -> list[str]:
        return [self.tokenizer.decode(row) for row in samples.tolist()]

    def symbols(self) -> list[str]:
        return self.tokenizer.symbols()

    def codec(self) -> Codec:
        return self.tokenizer.codec()

    def restore(self, codec: Codec) -> None:
        kind = CharTokenizer if self.config.tokenizer == "char" else SentencePieceTokenizer
        self.tokenizer = kind.restored(codec)


@DATASETS.register("text")
class Text(TextWindows):
    """Any UTF-8 text file, as windows of characters or sentencepiece pieces."""

    class Config(TextConfig):
        type: Literal["text"] = "text"
        path: LocalPath = Field(description="the text file; a relative path is taken from the current folder")
