"""Token ids whose tokenizer lives elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.component import ComponentConfig
from fewstep.data.base import DATASETS, Codec, Dataset, DataSpec
from fewstep.data.files import LocalPath
from fewstep.errors import UserError

_FILE = "tokenizer.json"


@DATASETS.register("token_ids")
class TokenIds(Dataset):
    """Rows of token ids from a safetensors file (`tokens`, [N, L]), such as `fewstep sample` writes.

    Without a file it is a vocabulary and a length alone: enough to sample an imported model, not to train on.

    Raises:
        UserError: a file without such rows, or with ids that the vocabulary does not have.
    """

    class Config(ComponentConfig):
        type: Literal["token_ids"] = "token_ids"
        vocab_size: int = Field(50_257, ge=2, description="symbols of the tokenizer (GPT-2's if left out)")
        length: int = Field(1024, ge=1, description="tokens a sample")
        path: LocalPath | None = Field(None, description="safetensors file with `tokens` [N, L]; null for no samples")
        tokenizer: LocalPath | None = Field(
            None, description="tokenizer.json to show text with (Hugging Face tokenizers); null shows ids"
        )

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.spec = DataSpec(self.config.vocab_size, self.config.length)
        self.train = torch.empty(0, self.config.length, dtype=torch.long)
        self._tokenizer = None if self.config.tokenizer is None else _read_tokenizer(Path(self.config.tokenizer))
        if self.config.path is not None:
            self.train = self._read(Path(self.config.path))

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
        return Codec(files={_FILE: self._tokenizer.to_str().encode()} if self._tokenizer else {})

    def restore(self, codec: Codec) -> None:
        self._tokenizer = _tokenizer(codec.files[_FILE].decode()) if _FILE in codec.files else None

    def to_text(self, samples: Tensor) -> list[str]:
        if self._tokenizer is None:
            return [" ".join(map(str, row)) for row in samples.tolist()]
        return [str(self._tokenizer.decode(row, skip_special_tokens=False)) for row in samples.tolist()]


def _read_tokenizer(path: Path) -> Any:
    try:
        return _tokenizer(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.tokenizer: cannot read '{path}': {error}") from None


def _tokenizer(content: str) -> Any:
    """What a tokenizer.json describes.

    Raises:
        UserError: it describes none, or Hugging Face's package is missing.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError("data.tokenizer needs Hugging Face's tokenizers: pip install tokenizers") from None
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # its own type is no more than this
        raise UserError(f"data.tokenizer: no tokenizer.json of Hugging Face's tokenizers: {error}") from None
