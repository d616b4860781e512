"""Shards: tokens on disk, memory-mapped. An incomplete folder of shards is refused.

A folder holds `manifest.json`, the tokenizer's files, and shards: safetensors with `tokens` (uint16, or uint32 for
more than 65,536 symbols) and `ends` (int64: for each document the number of the shard's tokens up to its end). Each
shard carries the digest of its tokenizer.

Shapes: T tokens, D documents of a shard.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.places import inside
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.block_sums import BLOCK, BlockSums
from fewstep.runtime.hashing import sha256
from fewstep.runtime.sealed_json import unsealed_json

FORMAT = 1
MANIFEST = "manifest.json"
PARTS = ("train", "held_out")
_KINDS: dict[str, np.dtype[np.generic]] = {"U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "I64": np.dtype("<i8")}


@dataclass(frozen=True)
class Shard:
    """One memory-mapped shard: `tokens` (uint16 or uint32 [T]) and `ends` (int64 [D]).

    `sums` compares blocks as they are read; it is None for shards of earlier versions. `offset` is the place of the
    tokens in the file.
    """

    tokens: NDArray[np.generic]
    ends: NDArray[np.int64]
    sums: BlockSums | None = None
    offset: int = 0

    def take(self, places: NDArray[np.int64]) -> NDArray[np.generic]:
        """Tokens at `places`, in their shape.

        Raises:
            OperationError: the file is damaged there.
        """
        if self.sums is not None:
            self.sums.check(self.offset + places * self.tokens.itemsize)
        return self.tokens.take(places)


class _BlockSums(TypedDict, total=False):
    """Sums of a shard's blocks; shards of earlier versions have none."""

    blocks: list[int]


class ShardEntry(_BlockSums):
    """A shard in the manifest."""

    part: str
    file: str
    tokens: int
    documents: int
    sha256: str


class TokenizerEntry(TypedDict):
    """The tokenizer in the manifest: its settings, the names of its files, and a digest of both."""

    config: dict[str, object]
    vocab_size: int
    files: list[str]
    sha256: str


class _Reading(TypedDict, total=False):
    """Entries that folders of earlier versions lack."""

    reading: str


class Manifest(_Reading):
    """What a folder of shards holds and was made from.

    `reading` is the rule by which text was read; folders of earlier versions have none, and hold CRLF as it stood.
    """

    format: int
    settings: dict[str, object]
    sources: list[dict[str, object]]
    tokenizer: TokenizerEntry
    parts: dict[str, dict[str, int]]
    shards: list[ShardEntry]


class _TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """The smallest type that holds every id."""
    return _KINDS["U16"] if vocab_size <= 1 << 16 else _KINDS["U32"]


def tokenizer_digest(config: ComponentConfig, files: dict[str, bytes]) -> str:
    """SHA-256 of a tokenizer's settings and files."""
    digest = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode())
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    return digest.hexdigest()


def write_shard(file: Path, tokens: NDArray[np.generic], ends: NDArray[np.int64], tokenizer: str) -> None:
    """Write one shard; the caller moves it to its final path."""
    from safetensors.numpy import save

    file.write_bytes(save({"tokens": tokens, "ends": ends}, metadata={"tokenizer": tokenizer}))


def open_shard(file: Path, entry: ShardEntry, tokenizer: str) -> Shard:
    """Map a shard into memory and compare it with its entry in the manifest.

    Raises:
        UserError: the shard is missing, truncated, of another tokenizer, or has other counts.
    """
    again = f"delete '{file.parent}' and run `fewstep data prepare` again"
    try:
        size = file.stat().st_size
        with file.open("rb") as raw:
            (length,) = struct.unpack("<Q", raw.read(8))
            header = json.loads(raw.read(min(length, 1 << 16)))
        tensors: dict[str, _TensorEntry] = {name: header[name] for name in ("tokens", "ends")}
        made_with = header.get("__metadata__", {}).get("tokenizer")
        counts = [tensor["shape"][0] for tensor in tensors.values()]
        expected_size = 8 + length + max(tensor["data_offsets"][1] for tensor in tensors.values())
    except FileNotFoundError:
        raise UserError(f"shard '{file}' is missing; {again}") from None
    except OSError as error:
        raise UserError(f"cannot read shard '{file}': {error.strerror}") from None
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise UserError(f"'{file}' is no shard; {again}") from None
    if size != expected_size:
        raise UserError(
            f"shard '{file}' has {size:,} bytes and should have {expected_size:,}: it is truncated; {again}"
        )
    if made_with != tokenizer:
        raise UserError(f"shard '{file}' was made with another tokenizer than its manifest says; {again}")
    if counts != [entry["tokens"], entry["documents"]]:
        raise UserError(f"shard '{file}' does not match its manifest: it holds {counts[0]:,} tokens; {again}")
    try:
        tokens, ends = (_mapped(file, tensor, 8 + length) for tensor in tensors.values())
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"'{file}' is no shard; {again}") from None
    if "blocks" not in entry:
        return Shard(tokens, ends)
    sums = BlockSums(file, entry["blocks"], again)
    begin, end = (8 + length + offset for offset in tensors["ends"]["data_offsets"])
    sums.check(np.array([0, *range(begin, end, BLOCK), end - 1]))
    return Shard(tokens, ends, sums, 8 + length + tensors["tokens"]["data_offsets"][0])


def _mapped(file: Path, tensor: _TensorEntry, begin: int) -> NDArray[Any]:
    offset = begin + tensor["data_offsets"][0]
    return np.memmap(file, dtype=_KINDS[tensor["dtype"]], mode="r", offset=offset, shape=tuple(tensor["shape"]))


class Prepared:
    """A complete folder of shards.

    Raises:
        UserError: the manifest is missing or of another version, or the tokenizer or a shard does not match it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.tokenizer = self._tokenizer()
        self.shards = {
            part: [
                open_shard(inside(folder, entry["file"], f"'{folder}'"), entry, self.manifest["tokenizer"]["sha256"])
                for entry in self.manifest["shards"]
                if entry["part"] == part
            ]
            for part in PARTS
        }

    def _tokenizer(self) -> Tokenizer:
        entry = self.manifest["tokenizer"]
        tokenizer = TOKENIZERS.build(entry["config"])
        try:
            files = {name: inside(self.folder, name, f"'{self.folder}'").read_bytes() for name in entry["files"]}
        except OSError as error:
            raise UserError(f"cannot read '{error.filename}': {error.strerror}; prepare the data again") from None
        if tokenizer_digest(tokenizer.config, files) != entry["sha256"]:
            raise UserError(f"the tokenizer in '{self.folder}' is not the one that its shards were made with")
        tokenizer.load(files)
        return tokenizer

    def verify(self) -> None:
        """Read every shard and compare its SHA-256 with the manifest's.

        Raises:
            UserError: a shard differs; the message names the first.
        """
        for entry in self.manifest["shards"]:
            if sha256(self.folder / entry["file"]) != entry["sha256"]:
                raise UserError(f"shard '{self.folder / entry['file']}' is damaged: its SHA-256 is not the manifest's")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        UserError: the manifest is missing, not JSON, damaged, or of another version.
    """
    file = folder / MANIFEST
    try:
        manifest: Manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        complete = version != FORMAT or _has_its_form(manifest)
    except OSError:
        raise UserError(f"no prepared data in '{folder}' (it holds no {MANIFEST})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        complete = False
    if not complete:
        raise UserError(f"'{file}' is no manifest of prepared data; prepare them again")
    if version != FORMAT:
        raise UserError(f"'{file}' has format {version}, and this version of fewstep reads {FORMAT}; prepare again")
    return cast(Manifest, unsealed_json(manifest, file, f"delete '{folder}' and run `fewstep data prepare` again"))


def _has_its_form(manifest: Manifest) -> bool:
    """Whether the entries that are read have their types; a missing one is a KeyError."""
    tokenizer, shards = manifest["tokenizer"], manifest["shards"]
    names = [tokenizer["sha256"], *tokenizer["files"]]
    names += [text for entry in shards for text in (entry["part"], entry["file"], entry["sha256"])]
    numbers = [number for entry in shards for number in (entry["tokens"], entry["documents"], *entry.get("blocks", ()))]
    sections = (manifest["settings"], manifest["parts"], tokenizer["config"])
    return (
        all(isinstance(section, dict) for section in sections)
        and isinstance(manifest["sources"], list)
        and all(isinstance(name, str) for name in names)
        and all(type(number) is int and number >= 0 for number in numbers)
    )
