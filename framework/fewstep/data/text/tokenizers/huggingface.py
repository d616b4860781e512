"""Tokenizers in the JSON format of Hugging Face's `tokenizers` library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.data.text.tokenizers.base import (
    TOKENIZERS,
    Ids,
    Tokenizer,
    check_characters,
    learned_file,
    refused_character,
)
from fewstep.runtime.hashing import LocalPath

_FILE = "tokenizer.json"
_SIZES = {"gpt2": 50_257, "bert-base-uncased": 30_522}
"""Symbols of the tokenizers that papers on discrete diffusion take."""
_NO_SOURCE = "set path to a tokenizer.json, or name to a model on the Hub"


@TOKENIZERS.register("huggingface")
class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json` of the `tokenizers` library (pip install tokenizers), from a file or from the Hub.

    A special token that a text spells out is text, and not that token. Tokenizers that change texts, such as those that
    make all letters small, are refused at the first text that they change.
    """

    advice: ClassVar = "a tokenizer that changes texts does not suit; take a byte-level one such as gpt2's"

    class Config(ComponentConfig):
        type: Literal["huggingface"] = "huggingface"
        path: LocalPath | None = Field(None, description="the file tokenizer.json, instead of a download")
        name: str | None = Field(None, description="model on the Hub that has one, such as gpt2")
        end_token: str | None = Field("<|endoftext|>", description="token that ends a document; null for none")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.path is None and self.name is None:
                yield "", _NO_SOURCE

    config: Config

    @classmethod
    def no_end(cls, config: ComponentConfig) -> str | None:
        assert isinstance(config, HuggingFaceTokenizer.Config)
        if config.end_token is not None:
            return None
        return "tokenizer 'huggingface' has no symbol that ends a document; set data.tokenizer.end_token"

    @classmethod
    def size(cls, config: ComponentConfig) -> int | None:
        assert isinstance(config, HuggingFaceTokenizer.Config)
        return _SIZES.get(config.name or "") if config.path is None else None

    def fit(self, texts: Iterable[str]) -> None:
        """Read or download the file; `texts` are not read."""
        c, library = self.config, _library()
        if c.path is not None:
            try:
                self.load({_FILE: Path(c.path).read_bytes()})
            except OSError as error:
                raise UserError(f"data.tokenizer.path: cannot read '{c.path}': {error.strerror}") from None
            return
        if c.name is None:
            raise UserError(f"data.tokenizer: {_NO_SOURCE}")
        try:
            tokenizer = library.Tokenizer.from_pretrained(c.name)
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(
                f"data.tokenizer.name: could not fetch '{c.name}' ({str(error).splitlines()[0]}); "
                "without a network set data.tokenizer.path to a copy of its tokenizer.json"
            ) from None
        self.load({_FILE: tokenizer.to_str().encode()})

    def files(self) -> dict[str, bytes]:
        return {_FILE: self._content}

    def load(self, files: Mapping[str, bytes]) -> None:
        self._content = learned_file(files, _FILE)
        try:
            self._tokenizer = _library().Tokenizer.from_buffer(self._content)
        except UserError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            file = self.config.path or _FILE
            raise UserError(f"data.tokenizer: '{file}' is no tokenizer.json ({error})") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Without it "<|endoftext|>" in a text would end the document.
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if self.config.end_token is not None:
            self.end = self._tokenizer.token_to_id(self.config.end_token)
            if self.end is None:
                raise UserError(f"data.tokenizer.end_token: the tokenizer has no token '{self.config.end_token}'")

    def encode(self, text: str) -> list[int]:
        return [int(i) for i in self.encode_batch([text])[0]]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            check_characters(text)
        rows = [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        decoded = self._tokenizer.decode_batch(rows, skip_special_tokens=False)
        for text, ids, again in zip(texts, rows, decoded, strict=True):
            if again != text:
                raise _changed(text, again)
            if self.end in ids:
                start = text.find(str(self.config.end_token))
                raise refused_character(text, max(start, 0), f"begins the end token '{self.config.end_token}'")
        return [np.array(ids, dtype=np.int64) for ids in rows]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode([i for i in ids if i != self.end], skip_special_tokens=False))

    def symbols(self) -> list[str]:
        names = {i: token for token, i in self._tokenizer.get_vocab().items()}
        return [
            self._tokenizer.decode([i], skip_special_tokens=False) or names.get(i, "") for i in range(self.vocab_size)
        ]


def _changed(text: str, again: str) -> UserError:
    """The error for a text that comes back as `again`."""
    same = next((i for i, (a, b) in enumerate(zip(text, again, strict=False)) if a != b), min(len(text), len(again)))
    back = f"comes back as {again[same]!r} from" if same < len(again) else "is lost by"
    if same == len(text):
        back, same = f"comes back followed by {again[same]!r} from", same - 1
    return refused_character(text, same, f"{back} this tokenizer")


def _library() -> ModuleType:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes share the task; threads do not survive a fork
    try:
        import tokenizers
    except ImportError:
        raise UserError("data.tokenizer: 'huggingface' needs tokenizers: pip install tokenizers") from None
    return tokenizers
