"""Token ids without the text or the tokenizer that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, MAX_MADE, Codec, Dataset, DataSpec
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.hashing import LocalPath
from fewstep.runtime.seeding import generator_for

_FILE = "tokenizer.json"


@DATASETS.register("token_ids")
class TokenIds(Dataset):
    """Rows of token ids from a safetensors file (`tokens`, [N, L]), such as `fewstep sample` writes.

    Without a file it is a vocabulary and a length only. That suffices to sample an imported model, not to train;
    `random` adds rows of independent uniform ids, to time a training of that size.

    Raises:
        UserError: the file has no such rows, or ids outside the vocabulary.
    """

    class Config(ComponentConfig):
        type: Literal["token_ids"] = "token_ids"
        vocab_size: int = Field(50_257, ge=2, description="symbols of the tokenizer (GPT-2's by default)")
        length: int = Field(1024, ge=1, description="tokens per sample")
        path: LocalPath | None = Field(None, description="safetensors file with `tokens` [N, L]; null for no samples")
        random: int = Field(0, ge=0, description="without a file: rows of uniform ids to train on, to time a training")
        tokenizer: LocalPath | None = Field(
            None, description="tokenizer.json that turns ids into text (Hugging Face tokenizers); null shows ids"
        )

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.random * self.length > MAX_MADE:
                yield "random", f"{self.random:,} rows of {self.length:,} ids are too much to make; take fewer"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.spec = DataSpec(self.config.vocab_size, self.config.length)
        shape = (self.config.random, self.config.length)
        self.train = torch.randint(self.config.vocab_size, shape, generator=generator_for(0, "token_ids/random"))
        self._tokenizer = None if self.config.tokenizer is None else _read_tokenizer(Path(self.config.tokenizer))
        if self.config.path is not None:
            self.train = self._read(Path(self.config.path))

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec | None:
        assert isinstance(config, TokenIds.Config)
        return DataSpec(config.vocab_size, config.length)

    def _read(self, path: Path) -> Tensor:
        try:
            tokens = load_file(path).get("tokens")
        except (OSError, SafetensorError) as error:
            raise UserError(f"data.path: cannot read '{path}': {error}") from None
        if tokens is None or tokens.ndim != 2 or tokens.is_floating_point() or not len(tokens):
            raise UserError(f"data.path: '{path}' holds no whole numbers called `tokens` in rows")
        if tokens.shape[1] != self.config.length:
            raise UserError(f"data.length: rows of '{path}' have {tokens.shape[1]} tokens, not {self.config.length}")
        if int(tokens.min()) < 0 or int(tokens.max()) >= self.config.vocab_size:
            raise UserError(
                f"data.vocab_size: '{path}' has ids from {int(tokens.min())} to {int(tokens.max())}, the vocabulary "
                f"from 0 to {self.config.vocab_size - 1}"
            )
        return tokens.long()

    def codec(self) -> Codec:
        return Codec(files=self._tokenizer.files() if self._tokenizer else {})

    def restore(self, codec: Codec) -> None:
        self._tokenizer = _tokenizer(codec.files) if codec.files else None

    def to_text(self, samples: Tensor) -> list[str]:
        if self._tokenizer is None:
            return [" ".join(map(str, row)) for row in samples.tolist()]
        return [self._tokenizer.decode(row) for row in samples.tolist()]


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return _tokenizer({_FILE: path.read_bytes()})
    except OSError as error:
        raise UserError(f"data.tokenizer: cannot read '{path}': {error}") from None


def _tokenizer(files: Mapping[str, bytes]) -> Tokenizer:
    """A tokenizer of Hugging Face's kind without an end symbol, since each row is complete."""
    tokenizer = TOKENIZERS.build({"type": "huggingface", "end_token": None})
    tokenizer.load(files)
    return tokenizer
