"""Documents to shards, in parallel. A preparation that is interrupted at any moment resumes byte-identically.

Files are written in `FOLDER.unfinished`, which becomes `FOLDER` in one move once all are complete. A shard counts once
its record stands beside it; the record names the place at which reading resumes. The documents of a shard depend on
their sizes alone.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.text.preparation.documents import Position
from fewstep.data.text.preparation.files import TextFile
from fewstep.data.text.preparation.shards import (
    FORMAT,
    MANIFEST,
    PARTS,
    Manifest,
    Prepared,
    ShardEntry,
    read_manifest,
    token_dtype,
    tokenizer_digest,
    write_shard,
)
from fewstep.data.text.preparation.source import START, Place, Source, SourceDocument, part_of, sample
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.block_sums import block_sums
from fewstep.runtime.files import flush, publish
from fewstep.runtime.hashing import sha256
from fewstep.runtime.in_order import InOrder
from fewstep.runtime.lock import LOCK, held
from fewstep.runtime.plain_text import RULE
from fewstep.runtime.progress import Narrator
from fewstep.runtime.sealed_json import sealed_json

_MEGABYTE = 1_000_000
_BATCH = 1 << 20
_REMEDY = "name another folder with data.prepared, or delete '{}'"
_JOB, _TOKENIZER_FILES = "job.json", "tokenizer.json.made"


@dataclass(frozen=True)
class Job:
    """A preparation.

    Args:
        folder: destination of the shards.
        source: documents.
        tokenizer: settings of the tokenizer.
        separator: text after each document; None for the tokenizer's own end symbol.
        shard_bytes: approximate bytes of text in a shard.
        settings: all settings that the tokens depend on, besides the text.
    """

    folder: Path
    source: Source
    tokenizer: ComponentConfig
    separator: str | None
    shard_bytes: int
    settings: dict[str, Any]

    @property
    def unfinished(self) -> Path:
        """Folder of the files until the preparation is complete."""
        return self.folder.with_name(f"{self.folder.name}.unfinished")


class _Batch(NamedTuple):
    """Documents that one process takes at a time; `closes` says that a shard ends with them."""

    texts: list[str]
    part: str | None
    after: Place
    amount_read: int
    closes: bool


class _Record(TypedDict):
    """The shards of one number, and the place in the text after them."""

    shards: list[ShardEntry]
    after: tuple[int, list[int]]


Encoded = dict[str, tuple[NDArray[np.generic], NDArray[np.int64]]]
"""Tokens of each part, and the number of tokens of each document."""


def prepare(job: Job, in_order: InOrder) -> Prepared:
    """Make or finish the folder of a job; an existing folder is only checked.

    Args:
        in_order: what runs the tokenising of batches.

    Raises:
        UserError: the folder was made of other text or with other settings, or the text cannot be read.
        OperationError: another process prepares the folder.
    """
    if job.folder.exists():
        check_same(job, read_manifest(job.folder))
        return Prepared(job.folder)
    with held(job.unfinished, "data"):
        if job.folder.exists():  # another process has just finished it
            shutil.rmtree(job.unfinished)
        elif (job.unfinished / MANIFEST).exists():
            check_same(job, read_manifest(job.unfinished))
            _finish(job)
        else:
            origins = _record_job(job)
            tokenizer = _tokenizer(job)
            _write_shards(job, tokenizer, in_order)
            _write_manifest(job, tokenizer, origins)
            _finish(job)
    return Prepared(job.folder)


def check_same(job: Job, manifest: Manifest) -> None:
    """Check that a manifest matches the settings of the job and the names and sizes of its files.

    Raises:
        UserError: they differ; the message names the first difference.
    """
    check_settings(job.folder, job.settings, manifest)
    check_sizes(
        job.folder, [file for stream, _ in job.source.streams for file in getattr(stream, "files", [])], manifest
    )


def check_settings(folder: Path, settings: dict[str, object], manifest: Manifest) -> None:
    """Check that a folder was prepared with these settings.

    Raises:
        UserError: a setting differs; the message names the first.
    """
    for key, value in json.loads(json.dumps(settings)).items():
        stored = manifest["settings"].get(key)
        if stored != value:
            raise UserError(
                f"'{folder}' was prepared with {key} {json.dumps(stored)}, and the recipe says {json.dumps(value)}; "
                + _REMEDY.format(folder)
            )


def check_sizes(folder: Path, files: Sequence[TextFile], manifest: Manifest) -> None:
    """Check that a folder was prepared from these files.

    Raises:
        UserError: a file is new, gone, or of another size; the message names the first.
    """
    before = _sizes_by_name(
        (str(row["name"]), size) for row in manifest["sources"] if isinstance(size := row.get("bytes"), int)
    )
    current = _sizes_by_name((file.name, file.size) for file in files)
    for name in sorted(current.keys() | before.keys()):
        if current.get(name) != before.get(name):
            was, now = (f"{size[name]:,} bytes" if name in size else "no such file" for size in (before, current))
            raise UserError(
                f"'{folder}' was prepared from other text: '{name}': {was} then, {now} now; " + _REMEDY.format(folder)
            )


def _sizes_by_name(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sizes by name; the held-out stream may repeat a name of the first, and gets a suffix."""
    by_name: dict[str, int] = {}
    for name, size in sizes:
        by_name[name if name not in by_name else f"{name} (held out)"] = size
    return by_name


# ------------------------------------------------------------------- steps


def _record_job(job: Job) -> list[dict[str, object]]:
    """Origins of the documents. They and the settings are recorded, or compared with the earlier record."""
    total, narrator = 0, Narrator("hash of the files", unit="MB")

    def on_read(count: int) -> None:
        nonlocal total
        total += count
        narrator(total // _MEGABYTE or 1, (job.source.size or 0) // _MEGABYTE)

    origins = job.source.origins(on_read)
    content = json.loads(json.dumps({"settings": job.settings, "sources": origins}))
    file = job.unfinished / _JOB
    if not file.exists():
        _write(file, json.dumps(content, indent=2))
    elif json.loads(file.read_text(encoding="utf-8")) != content:
        raise UserError(f"'{job.unfinished}' was begun with other text or settings; delete it to start anew")
    return origins


def _tokenizer(job: Job) -> Tokenizer:
    """The fitted tokenizer; an earlier session's is loaded."""
    tokenizer = TOKENIZERS.build(job.tokenizer)
    file_list = job.unfinished / _TOKENIZER_FILES
    if file_list.exists():
        tokenizer.load({name: (job.unfinished / name).read_bytes() for name in json.loads(file_list.read_text())})
        return tokenizer
    try:
        tokenizer.fit(_training_texts(job, tokenizer))
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("data") else f"data.tokenizer: {error}") from None
    files = tokenizer.files()
    for name, content in files.items():
        _write(job.unfinished / name, content)
    # The list is written last: without it the files count as incomplete.
    _write(file_list, json.dumps(sorted(files)))
    return tokenizer


def _training_texts(job: Job, tokenizer: Tokenizer) -> Iterator[str]:
    """Texts that the tokenizer learns from."""
    if tokenizer.learns_from == "nothing":
        return
    documents = _narrated(job.source.documents(), job, "read for the tokenizer")
    if tokenizer.learns_from == "sample":
        yield from sample(documents, tokenizer.sample, job.source.share)
        return
    yield from (document.text for document in documents)
    if job.separator:
        yield job.separator


def _narrated(documents: Iterator[SourceDocument], job: Job, label: str) -> Iterator[SourceDocument]:
    narrator = Narrator(label, unit="MB")
    for document in documents:
        narrator(document.amount_read // _MEGABYTE or 1, (job.source.size or 0) // _MEGABYTE)
        yield document


def _write_shards(job: Job, tokenizer: Tokenizer, in_order: InOrder) -> None:
    """Write the shards that are missing."""
    if job.separator is None and tokenizer.end is None:
        reason = type(tokenizer).no_end(job.tokenizer) or "the tokenizer has no symbol that ends a document"
        raise UserError(f'data.separator: {reason}; or set separator to a text between documents, or "" for none')
    encode = Encoder(tokenizer, job.separator, job.source.share)
    records = _records(job.unfinished)
    start = _place(records[-1]["after"]) if records else START
    digest = tokenizer_digest(job.tokenizer, tokenizer.files())
    narrate = _TokenizingRate(job)
    numbers = count(len(records))
    shard: list[Encoded] = []
    for batch, encoded in in_order(encode, _batches(job, start)):
        narrate(batch.amount_read)
        shard.append(encoded)
        if batch.closes:
            _store_shard(job.unfinished, next(numbers), shard, batch.after, digest)
            shard = []


def _batches(job: Job, start: Place) -> Iterator[_Batch]:
    """Documents in batches. The end of a batch depends only on the documents since the shard began."""
    limit = min(_BATCH, job.shard_bytes)
    texts: list[str] = []
    batch_size = shard_size = 0
    last: SourceDocument | None = None
    for document in job.source.documents(start):
        if last and (batch_size >= limit or document.part != last.part):
            yield _Batch(texts, last.part, last.after, last.amount_read, shard_size >= job.shard_bytes)
            texts, batch_size, shard_size = [], 0, 0 if shard_size >= job.shard_bytes else shard_size
        texts.append(document.text)
        size = len(document.text.encode())
        batch_size, shard_size, last = batch_size + size, shard_size + size, document
    if last:
        yield _Batch(texts, last.part, last.after, last.amount_read, closes=True)


@dataclass(frozen=True)
class Encoder:
    """Tokens of a batch: the task of each process. It is pickled as settings and files of its tokenizer."""

    tokenizer: Tokenizer
    separator: str | None
    share: float

    def __reduce__(self) -> tuple[object, ...]:
        settings = self.tokenizer.config.model_dump(mode="json")
        return _encoder, (settings, self.tokenizer.files(), self.separator, self.share)

    def __call__(self, batch: _Batch) -> Encoded:
        texts = [text + self.separator for text in batch.texts] if self.separator else batch.texts
        try:
            ids = self.tokenizer.encode_batch(texts)
        except UserError as error:
            advice = f"; {self.tokenizer.advice}" if self.tokenizer.advice else ""
            raise UserError(f"data.tokenizer: {error} of a document{advice}") from None
        if self.separator is None:
            end = np.array([self.tokenizer.end], dtype=np.int64)
            ids = [np.concatenate([row, end]) for row in ids]
        parts: dict[str, list[NDArray[np.generic]]] = defaultdict(list)
        for text, row in zip(batch.texts, ids, strict=True):
            parts[batch.part or part_of(text, self.share)].append(row)
        dtype = token_dtype(self.tokenizer.vocab_size)
        return {
            part: (np.concatenate(rows).astype(dtype), np.array([len(row) for row in rows], dtype=np.int64))
            for part, rows in parts.items()
        }


def _encoder(settings: dict[str, object], files: dict[str, bytes], separator: str | None, share: float) -> Encoder:
    """An encoder made again from what it was pickled as."""
    tokenizer = TOKENIZERS.build(settings)
    tokenizer.load(files)
    return Encoder(tokenizer, separator, share)


def _store_shard(folder: Path, number: int, batches: Sequence[Encoded], after: Place, tokenizer: str) -> None:
    """Write a shard of each part that has documents, then the record that makes them count."""
    entries: list[ShardEntry] = []
    for part in PARTS:
        pairs = [encoded[part] for encoded in batches if part in encoded]
        if not pairs:
            continue
        name = f"{part}-{number:05d}.safetensors"
        tokens, lengths = np.concatenate([t for t, _ in pairs]), np.concatenate([n for _, n in pairs])
        partial = folder / f"{name}.part"
        write_shard(partial, tokens, lengths.cumsum(), tokenizer)
        digest = sha256(partial)
        publish(partial, folder / name)
        entry: ShardEntry = {
            "part": part,
            "file": name,
            "tokens": len(tokens),
            "documents": len(lengths),
            "sha256": digest,
            "blocks": block_sums(folder / name),
        }
        entries.append(entry)
    _write(folder / f"{number:05d}.record", json.dumps({"shards": entries, "after": after}))


def _records(folder: Path) -> list[_Record]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.record"))]


def _place(raw: tuple[int, list[int]]) -> Place:
    return Place(raw[0], Position(*raw[1]))


def _write_manifest(job: Job, tokenizer: Tokenizer, origins: list[dict[str, object]]) -> None:
    entries = [entry for record in _records(job.unfinished) for entry in record["shards"]]
    total = {
        part: {key: sum(e[key] for e in entries if e["part"] == part) for key in ("documents", "tokens")}
        for part in PARTS
    }
    if not total["train"]["tokens"]:
        raise UserError("data.path: there are no documents to train on; all are empty, or held out")
    files = tokenizer.files()
    manifest: Manifest = {
        "format": FORMAT,
        "reading": RULE,
        "settings": job.settings,
        "sources": origins,
        "tokenizer": {
            "config": job.tokenizer.model_dump(mode="json"),
            "vocab_size": tokenizer.vocab_size,
            "files": sorted(files),
            "sha256": tokenizer_digest(job.tokenizer, files),
        },
        "parts": total,
        "shards": entries,
    }
    _write(job.unfinished / MANIFEST, json.dumps(sealed_json(manifest), indent=2, ensure_ascii=False) + "\n")


def _finish(job: Job) -> None:
    """Delete the temporary files, and move the folder to its final path."""
    folder = job.unfinished
    for file in (*folder.glob("*.record"), *folder.glob("*.part"), folder / _JOB, folder / _TOKENIZER_FILES):
        file.unlink(missing_ok=True)
    (folder / LOCK).unlink(missing_ok=True)
    folder.rename(job.folder)
    flush(job.folder.parent)  # the rename survives a power cut only once the parent folder is on disk


def _write(file: Path, content: str | bytes) -> None:
    partial = file.with_name(f"{file.name}.part")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    publish(partial, file)


@dataclass
class _TokenizingRate:
    """Progress of the tokenising, counted from the place at which this session began."""

    job: Job
    start: int | None = None
    narrator: Narrator = field(default_factory=lambda: Narrator("tokenised", unit="MB"))

    def __call__(self, amount_read: int) -> None:
        self.start = amount_read if self.start is None else self.start
        if self.job.source.size:
            count, total = (n // _MEGABYTE for n in (amount_read - self.start, self.job.source.size - self.start))
            self.narrator(count or 1, total)
