"""Any UTF-8 text file as windows of tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, Codec, Dataset, DataSpec
from fewstep.data.text.preparation.files import format_of, unread_format
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.hashing import LocalPath, read_utf8


class TextConfig(ComponentConfig):
    """Settings of the datasets made of one long text."""

    length: int = Field(128, ge=2, description="tokens per window")
    tokenizer: Literal["char", "sentencepiece"] = Field("char", description="characters, or trained byte-pair pieces")
    pieces: int = Field(512, ge=16, description="vocabulary of the sentencepiece tokenizer")

    def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
        # A resolved recipe spells out the default, so only another value is a mistake.
        if self.tokenizer == "char" and self.pieces != type(self).model_fields["pieces"].default:
            yield "pieces", "a vocabulary of pieces needs `tokenizer: sentencepiece`; characters are all taken"


class TextDataset(Dataset):
    """Text data in the ids of a tokenizer."""

    kind = "text"
    tokenizer: Tokenizer

    def to_text(self, samples: Tensor) -> list[str]:
        return [self.tokenizer.decode(row) for row in samples.tolist()]

    def documents(self, samples: Tensor) -> list[list[str]]:
        """Documents of each sample [N, L], or the parts of them that it holds, without the symbols that end them."""
        return [[text] for text in self.to_text(samples)]

    def symbols(self) -> list[str]:
        return self.tokenizer.symbols()

    @abstractmethod
    def make_tokenizer(self) -> Tokenizer:
        """The tokenizer of the settings, not yet fitted."""

    def codec(self) -> Codec:
        return Codec(files=self.tokenizer.files())

    def restore(self, codec: Codec) -> None:
        self.tokenizer = self.make_tokenizer()
        self.tokenizer.load(codec.files)


class TextWindows(TextDataset):
    """Consecutive windows of one text; an incomplete last window is left out."""

    config: TextConfig

    def __init__(self, config: TextConfig | None = None) -> None:
        super().__init__(config)
        text = self.read()
        c = self.config
        self.tokenizer = self.make_tokenizer()
        try:
            self.tokenizer.fit([text])
        except UserError as error:
            raise UserError(f"data.pieces: {error}") from None
        try:
            ids = torch.tensor(self.tokenizer.encode(text), dtype=torch.long)
        except UserError as error:
            raise UserError(f"data.tokenizer: {error}") from None
        windows = ids.numel() // c.length
        if not windows:
            raise UserError(f"data.length: the text has {ids.numel()} tokens, fewer than one window of {c.length}")
        self.train = ids[: windows * c.length].view(windows, c.length)
        self.spec = DataSpec(vocab_size=self.tokenizer.vocab_size, length=c.length)

    def make_tokenizer(self) -> Tokenizer:
        pieces = {"type": "sentencepiece", "vocab_size": self.config.pieces, "byte_fallback": False}
        return TOKENIZERS.build("char" if self.config.tokenizer == "char" else pieces)

    @abstractmethod
    def read(self) -> str:
        """The whole text."""


@DATASETS.register("text")
class Text(TextWindows):
    """Any UTF-8 text file, as windows of characters or sentencepiece pieces."""

    class Config(TextConfig):
        type: Literal["text"] = "text"
        path: LocalPath = Field(description="the text file; a relative path is taken from the current folder")

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        name = Path(self.config.path).name
        if format_of(name) != "text":
            self.remark = (
                f"'{name}' is a table, and is read as one text, with its delimiters and quotes; `type: corpus` with "
                "`field` reads the texts of a column"
            )

    def read(self) -> str:
        path = Path(self.config.path)
        if path.suffix != ".json" and (reason := unread_format(path.name)):
            raise UserError(f"data.path: {reason}")
        return read_utf8(path)
