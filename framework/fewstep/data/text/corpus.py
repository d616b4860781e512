"""Text of any size: documents, tokenised once into shards that training maps into memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.fields import From
from fewstep.core.recipe_view import RecipeView
from fewstep.data.base import DATASETS, DataSpec
from fewstep.data.text.mapped import MappedRows, PaddedDocuments, Windows
from fewstep.data.text.preparation.documents import Rules
from fewstep.data.text.preparation.fetch import fetch
from fewstep.data.text.preparation.files import find_files, is_plain_text, unread_format
from fewstep.data.text.preparation.hub import HubConfig, from_disk, from_hub, is_saved
from fewstep.data.text.preparation.ordered_processes import in_order as in_processes
from fewstep.data.text.preparation.prepare import Job, check_settings, check_sizes, prepare
from fewstep.data.text.preparation.shards import MANIFEST, PARTS, Prepared, read_manifest
from fewstep.data.text.preparation.source import Files, Source, Stream
from fewstep.data.text.text import TextDataset
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.hashing import LocalPath
from fewstep.runtime.in_order import InOrder

_PREPARED_BY_TRAINING = 1 << 26
"""Limit on the bytes of text that training prepares itself; more text needs the command."""
_RULES = tuple(Rules.__dataclass_fields__)
_CONTENT_KEYS = (*_RULES, "separator", "held_out", "held_out_path", "shard_bytes", "hub", "url")
"""Keys that the content of the shards depends on; the path of the text is not among them."""
_IGNORED_FIELD = "names a key or a column, and plain text has none"


@DATASETS.register("corpus")
class Corpus(TextDataset):
    """Text of any size: files, folders, globs, JSON lines, CSV, TSV, packed (gz, zst, zip), or Hugging Face `datasets`.

    `fewstep data prepare RECIPE` cuts the text into documents and writes their tokens into shards, which training maps
    into memory: see docs/text-data.md. A hash of a document's text decides whether it is held out.
    """

    class Config(ComponentConfig):
        type: Literal["corpus"] = "corpus"
        path: LocalPath | None = Field(None, description="file, folder or glob; replaces the download of the recipe")
        hub: HubConfig | None = Field(None, description="dataset on the Hugging Face Hub")
        url: str | None = Field(None, pattern="^https?://", description="file to download")
        format: Literal["auto", "text", "jsonl", "csv", "tsv"] = Field(
            "auto", description="auto goes by the files' names"
        )
        field: str = Field("text", description="key or column of the text, in JSON lines and tables")
        documents: Literal["file", "line", "paragraph", "marked", "pieces"] = Field(
            "file",
            description="documents of a text file: the file, a line, lines up to a blank one, lines up to the next "
            "`marker`, or pieces of `piece_bytes`",
        )
        marker: str = Field("", description="regular expression of the lines that begin a document (marked)")
        keep_marker: bool = Field(False, description="whether a marker line belongs to the document that it begins")
        piece_bytes: int = Field(1 << 20, ge=16, description="bytes of a document, up to a whole character (pieces)")
        held_out: float = Field(0.01, ge=0, lt=1, description="held-out share of the documents")
        held_out_path: LocalPath | None = Field(
            None, description="file, folder or glob of held-out text, instead of a share"
        )
        tokenizer: Annotated[ComponentConfig, From("tokenizers")] = Field("byte", validate_default=True)
        separator: str | None = Field(
            None, description='text after each document, "" for nothing; null for the tokenizer\'s own end'
        )
        length: int = Field(128, ge=2, description="tokens per sample")
        packing: Literal["wrap", "pad"] = Field(
            "wrap",
            description="wrap cuts the concatenated documents into samples; pad makes a sample of each document, "
            "truncated, or filled with the tokenizer's end",
        )
        shard_bytes: int = Field(1 << 25, ge=1024, description="bytes of text per shard")
        readers: int = Field(1, ge=1, description="threads that read ahead of the training; the order stays the same")
        prepared: LocalPath | None = Field(
            None, validate_default=True, description="folder of the shards; null for prepared/NAME-DIGEST"
        )

        @field_validator("prepared")
        @classmethod
        def _name(cls, folder: str | None, info: ValidationInfo) -> str | None:
            """By default each text and each tokenisation has its own folder."""
            data = info.data
            if folder or not {"path", "tokenizer", *_CONTENT_KEYS} <= data.keys():
                return folder
            settings = {key: data[key] for key in ("path", "tokenizer", *_CONTENT_KEYS)}
            digest = hashlib.sha256(json.dumps(settings, default=lambda c: c.model_dump(mode="json")).encode())
            origin = data["path"] or (data["hub"] and data["hub"].name) or data["url"] or "corpus"
            name = re.sub(r"[^A-Za-z0-9._-]", "", Path(origin).name.split(".")[0]) or "corpus"
            return str(Path("prepared").absolute() / f"{name}-{digest.hexdigest()[:8]}")

        def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
            if self.path is None and self.hub is None and self.url is None:
                yield "path", "name a file, folder or glob here, or a dataset under `hub`"
            yield from self._check_format()
            if (self.documents == "marked") != bool(self.marker):
                yield "marker", "`documents: marked` and a marker belong together"
            try:
                re.compile(self.marker)
            except re.error as error:
                yield "marker", f"is no regular expression ({error})"
            yield from self._check_ends()

        def _check_ends(self) -> Iterator[tuple[str, str]]:
            """What ends a document: the tokenizer's own symbol, or a text that it can write."""
            no_end = TOKENIZERS.get(self.tokenizer.type).cls.no_end(self.tokenizer)
            if self.packing == "pad" and self.separator is not None:
                yield "separator", "`packing: pad` fills samples with the tokenizer's end; leave separator null"
            if self.packing == "pad" and no_end:
                yield "packing", no_end
            elif self.separator is None and no_end:
                yield "separator", f'{no_end}; or set separator to a text between documents, or "" for none'
            unknown = set(self.separator or "") - set(getattr(self.tokenizer, "alphabet", None) or self.separator or "")
            if unknown:
                yield "separator", f"character {min(unknown)!r} is not in data.tokenizer.alphabet"

        def _check_format(self) -> Iterator[tuple[str, str]]:
            """Files whose names say that they are not read, and a `field` that no file has."""
            if self.path is None or _is_prepared(self):
                return
            name = Path(self.path).name
            if self.format == "auto" and (reason := unread_format(name)):
                yield "path", reason
            if self.field != "text" and (self.format == "text" or (self.format == "auto" and is_plain_text(name))):
                yield "field", f"{_IGNORED_FIELD}; leave it out, or set format to csv, tsv or jsonl"

        @property
        def folder(self) -> Path:
            """Where the shards are."""
            assert self.prepared is not None
            return Path(self.prepared)

        def prepare(
            self, processes: int = 1, verify: bool = False, in_order: InOrder | None = None
        ) -> list[dict[str, object]]:
            """Write the shards unless they are there (see `Preparable`)."""
            shards = _ready(self, in_order or partial(in_processes, processes=processes))
            if verify:
                shards.verify()
            totals, entries = shards.manifest["parts"], shards.manifest["shards"]
            return [
                {"part": part, **totals[part], "shards": sum(entry["part"] == part for entry in entries)}
                for part in PARTS
            ]

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        if not _is_prepared(c):
            _check_small(c)
        self.prepared = _ready(c)
        self.tokenizer = self.prepared.tokenizer
        self.spec = DataSpec(vocab_size=self.tokenizer.vocab_size, length=c.length)
        self.readers = c.readers
        self.train = self._part("train")
        self.held_out = self._part("held_out") if self.prepared.shards["held_out"] else None
        if not len(self.train):
            count = self.prepared.manifest["parts"]["train"]["tokens"]
            raise UserError(f"data.length: the text has {count} tokens, fewer than one window of {c.length}")

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec | None:
        assert isinstance(config, Corpus.Config)
        size = TOKENIZERS.get(config.tokenizer.type).cls.size(config.tokenizer)
        return None if size is None else DataSpec(size, config.length)

    def _part(self, part: str) -> MappedRows:
        shards, c = self.prepared.shards[part], self.config
        if c.packing == "wrap":
            return Windows(shards, c.length)
        if self.tokenizer.end is None:
            reason = type(self.tokenizer).no_end(c.tokenizer) or "the tokenizer has no symbol that ends a document"
            raise UserError(f"data.packing: {reason}")
        return PaddedDocuments(shards, c.length, self.tokenizer.end)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the hashes of the training shards and of how samples are cut from them."""
        shards = [entry["sha256"] for entry in self.prepared.manifest["shards"] if entry["part"] == "train"]
        return hashlib.sha256(json.dumps([shards, self.config.packing, self.config.length]).encode()).hexdigest()

    @property
    def end(self) -> int | None:  # type: ignore[override]
        """The tokenizer's end, where samples are documents that it ends and fills (packing: pad)."""
        return self.tokenizer.end if self.config.packing == "pad" else None

    def to_text(self, samples: Tensor) -> list[str]:
        """Texts of samples up to their end; in wrapped samples the ends of documents are written out."""
        end = self.tokenizer.end
        name = "" if end is None or self.config.packing == "pad" else self.tokenizer.symbols()[end]
        return [name.join(documents) for documents in self.documents(samples)]

    def documents(self, samples: Tensor) -> list[list[str]]:
        end = self.tokenizer.end
        if end is None:
            return [[self.tokenizer.decode(row)] for row in samples.tolist()]
        last = 1 if self.config.packing == "pad" else None
        return [[self.tokenizer.decode(part) for part in _split(row, end)[:last]] for row in samples.tolist()]

    def make_tokenizer(self) -> Tokenizer:
        return TOKENIZERS.build(self.config.tokenizer)


def _is_prepared(config: Corpus.Config) -> bool:
    return (config.folder / MANIFEST).exists()


def _ready(config: Corpus.Config, in_order: InOrder | None = None) -> Prepared:
    """The shards of this recipe, prepared if they are missing.

    Args:
        in_order: what runs the tokenising; None runs it in this process.

    Raises:
        UserError: the folder holds shards of other text or settings.
    """
    if not _is_prepared(config):
        return prepare(_job(config), in_order or partial(in_processes, processes=1))
    _check(config)
    return Prepared(config.folder)


def _split(row: list[int], end: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in row:
        if token == end:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _settings(config: Corpus.Config) -> dict[str, object]:
    """All settings that the shards depend on, besides the text."""
    settings = config.model_dump(mode="json", include={*_CONTENT_KEYS, "tokenizer"})
    settings["tokenizer"].pop("path", None)
    settings["held_out_path"] = settings["held_out_path"] is not None
    return settings


def _check(config: Corpus.Config) -> None:
    """Check that the prepared folder matches the recipe, and the text too if it is still there.

    Raises:
        UserError: they differ.
    """
    folder = config.folder
    manifest = read_manifest(folder)
    check_settings(folder, _settings(config), manifest)
    paths = [Path(path) for path in (config.path, config.held_out_path) if path is not None]
    if config.path is not None and all(path.exists() and not is_saved(path) for path in paths):
        check_sizes(folder, [file for path in paths for file in find_files(path)], manifest)


def _check_small(config: Corpus.Config) -> None:
    """Check that the text is small enough for training to prepare it without a second command.

    Raises:
        UserError: the text is large, or must be downloaded first.
    """
    command = "prepare the data first: `fewstep data prepare RECIPE`, with the same --set as here"
    if config.path is None:
        raise UserError(f"no prepared data in '{config.prepared}'; {command}")
    if is_saved(Path(config.path)) or sum(file.size for file in find_files(Path(config.path))) > _PREPARED_BY_TRAINING:
        raise UserError(f"no prepared data of '{config.path}' in '{config.prepared}'; {command}")


def _job(config: Corpus.Config) -> Job:
    return Job(
        folder=config.folder,
        source=_source(config),
        tokenizer=config.tokenizer,
        separator=config.separator,
        shard_bytes=config.shard_bytes,
        settings=_settings(config),
    )


def _source(config: Corpus.Config) -> Source:
    """The recipe's documents: from `data.path` if it is set, else from the Hub or the download."""
    rules = Rules(**{key: getattr(config, key) for key in _RULES})
    hub = config.hub if config.path is None else None
    first = _first(config, rules) if hub is None else from_hub(hub, hub.split, config.field, 0)
    split = None if hub is None else hub.held_out_split
    has_held_out_stream = config.held_out_path is not None or split is not None
    streams: list[tuple[Stream, str | None]] = [(first, "train" if has_held_out_stream else None)]
    if config.held_out_path is not None:
        streams.append((_local(config.held_out_path, rules, "data.held_out_path", 1), "held_out"))
    elif hub is not None and split is not None:
        streams.append((from_hub(hub, split, config.field, 1), "held_out"))
    return Source(streams, config.held_out)


def _first(config: Corpus.Config, rules: Rules) -> Stream:
    """The documents of a path, or else of a file that is downloaded."""
    path: str | Path | None = config.path
    if path is None:
        assert config.url is not None
        path = fetch(config.url, config.folder.parent / "downloads")
    return _local(path, rules, "data.path", 0)


def _local(path: str | Path, rules: Rules, key: str, number: int) -> Stream:
    path = Path(path)
    if is_saved(path):
        return from_disk(path, rules.field, number)
    files = find_files(path, key)
    formats = {file.format_by(rules.format) for file in files}
    if rules.format == "auto" and (reasons := [r for file in files if (r := unread_format(file.path.name))]):
        raise UserError(f"{key}: {reasons[0]}")
    if formats == {"text"} and rules.field != "text":
        raise UserError(
            f"data.field: '{rules.field}' {_IGNORED_FIELD} ('{files[0].path}'); leave it out, or set data.format to "
            "csv, tsv or jsonl"
        )
    return Files(files, rules)
