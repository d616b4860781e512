"""Documents to shards: in parallel, and so that whoever is killed at any moment goes on and ends with the same bytes.

Work is done in `FOLDER.unfinished`, which becomes `FOLDER` in one move once all is there. A shard counts once its
record stands beside it; a record says where to read on. Which documents a shard holds depends on their sizes alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

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
    Prepared,
    read_manifest,
    token_dtype,
    tokenizer_digest,
    write_shard,
)
from fewstep.data.text.preparation.source import START, Found, Place, Source, part_of, sample
from fewstep.data.text.preparation.workers import in_order
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer
from fewstep.runtime.files import publish
from fewstep.runtime.hashing import sha256
from fewstep.runtime.progress import Narrator

_MEGABYTE = 1_000_000
_BATCH = 1 << 20
_REMEDY = "name another folder with data.prepared, or delete '{}'"
_JOB, _LOCK, _TOKENIZER = "job.json", "lock", "tokenizer.json.made"


@dataclass(frozen=True)
class Job:
    """What is prepared, and where.

    `settings` is all that decides the tokens besides the text; `separator` is written after each document, None for
    the tokenizer's own end; a shard holds the documents of about `shard_bytes` of text.
    """

    folder: Path
    source: Source
    tokenizer: ComponentConfig
    separator: str | None
    shard_bytes: int
    settings: dict[str, Any]

    @property
    def work(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.unfinished")


class _Batch(NamedTuple):
    """Documents that one worker takes at a time; `closes` says that a shard ends with them."""

    texts: list[str]
    part: str | None
    after: Place
    seen: int
    closes: bool


Encoded = dict[str, tuple[NDArray[Any], NDArray[np.int64]]]
"""Tokens of each part, and the number of tokens of each document."""


def prepare(job: Job, workers: int = 1) -> Prepared:
    """Make the folder of a job, or finish it; if it is there already, only look whether it is the right one.

    Raises:
        UserError: the folder was made of other text or with other settings, or the text cannot be read.
    """
    if job.folder.exists():
        check_same(job, read_manifest(job.folder))
        return Prepared(job.folder)
    with _alone(job.work):
        if job.folder.exists():  # another process has just finished it
            shutil.rmtree(job.work)
        elif (job.work / MANIFEST).exists():
            check_same(job, read_manifest(job.work))
            _finish(job)
        else:
            about = _begin(job)
            tokenizer = _tokenizer(job)
            _write_shards(job, tokenizer, workers)
            _write_manifest(job, tokenizer, about)
            _finish(job)
    return Prepared(job.folder)


def check_same(job: Job, manifest: dict[str, Any]) -> None:
    """Whether a manifest is what the job would make of its text, as far as names and sizes tell.

    Raises:
        UserError: naming the first difference.
    """
    check_settings(job.folder, job.settings, manifest)
    check_sizes(
        job.folder, [file for stream, _ in job.source.streams for file in getattr(stream, "files", [])], manifest
    )


def check_settings(folder: Path, settings: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Whether a folder was prepared with these settings.

    Raises:
        UserError: naming the first that differs.
    """
    for key, value in json.loads(json.dumps(settings)).items():
        there = manifest["settings"].get(key)
        if there != value:
            raise UserError(
                f"'{folder}' was prepared with {key} {json.dumps(there)}, and the recipe says {json.dumps(value)}; "
                + _REMEDY.format(folder)
            )


def check_sizes(folder: Path, files: Sequence[TextFile], manifest: dict[str, Any]) -> None:
    """Whether a folder was prepared from these files.

    Raises:
        UserError: naming the first that is new, gone, or of another size.
    """
    there = _numbered((row["name"], row["bytes"]) for row in manifest["sources"] if "bytes" in row)
    here = _numbered((file.name, file.size) for file in files)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            was, now = (f"{size[name]:,} bytes" if name in size else "no such file" for size in (there, here))
            raise UserError(
                f"'{folder}' was prepared from other text: '{name}': {was} then, {now} now; " + _REMEDY.format(folder)
            )


def _numbered(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Sizes by name; a name that comes again, in another stream, is told apart."""
    found: dict[str, int] = {}
    for name, size in sizes:
        found[name if name not in found else f"{name} (held out)"] = size
    return found


# ------------------------------------------------------------------- steps


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Nobody else prepares this folder at the same time."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"'{work}' is being prepared by another process") from None
        yield


def _begin(job: Job) -> list[dict[str, Any]]:
    """Put on record what is being made of what, or see that it is still the same."""
    done, narrator = 0, Narrator("hash of the files", unit="MB")

    def seen(more: int) -> None:
        nonlocal done
        done += more
        narrator(done // _MEGABYTE or 1, (job.source.size or 0) // _MEGABYTE)

    about = job.source.about(seen)
    content = json.loads(json.dumps({"settings": job.settings, "sources": about}))
    file = job.work / _JOB
    if not file.exists():
        _write(file, json.dumps(content, indent=2))
    elif json.loads(file.read_text(encoding="utf-8")) != content:
        raise UserError(f"'{job.work}' was begun with other text or settings; delete it to start anew")
    return about


def _tokenizer(job: Job) -> Tokenizer:
    """The tokenizer, learned once."""
    tokenizer = TOKENIZERS.build(job.tokenizer)
    made = job.work / _TOKENIZER
    if made.exists():
        tokenizer.load({name: (job.work / name).read_bytes() for name in json.loads(made.read_text())})
        return tokenizer
    try:
        tokenizer.fit(_lessons(job, tokenizer))
    except UserError as error:
        raise UserError(str(error) if str(error).startswith("data") else f"data.tokenizer: {error}") from None
    files = tokenizer.files()
    for name, content in files.items():
        _write(job.work / name, content)
    _write(made, json.dumps(sorted(files)))
    return tokenizer


def _lessons(job: Job, tokenizer: Tokenizer) -> Iterator[str]:
    """The documents that a tokenizer learns from."""
    if tokenizer.learns_from == "nothing":
        return
    documents = _told(job.source.documents(), job, "read for the tokenizer")
    if tokenizer.learns_from == "sample":
        yield from sample(documents, tokenizer.config.sample, job.source.share)
        return
    yield from (found.text for found in documents)
    if job.separator:
        yield job.separator


def _told(documents: Iterator[Found], job: Job, what: str) -> Iterator[Found]:
    narrator = Narrator(what, unit="MB")
    for found in documents:
        narrator(found.seen // _MEGABYTE or 1, (job.source.size or 0) // _MEGABYTE)
        yield found


def _write_shards(job: Job, tokenizer: Tokenizer, workers: int) -> None:
    """Every shard that is not there yet."""
    if job.separator is None and tokenizer.end is None:
        raise UserError(
            f"data.separator: tokenizer '{job.tokenizer.type}' has no symbol that ends a document; "
            'set a text to put between documents, or "" for none'
        )
    encode = Encoder(tokenizer, job.separator, job.source.share)
    records = _records(job.work)
    start = _place(records[-1]["after"]) if records else START
    digest = tokenizer_digest(job.tokenizer, tokenizer.files())
    narrator = _Rate(job)
    numbers = count(len(records))
    held: list[Encoded] = []
    for batch, encoded in in_order(encode, _batches(job, start), workers):
        narrator(batch.seen)
        held.append(encoded)
        if batch.closes:
            _keep(job.work, next(numbers), held, batch.after, digest)
            held = []


def _batches(job: Job, start: Place) -> Iterator[_Batch]:
    """Documents in batches. Where one ends depends on the documents since the shard began, and on nothing else."""
    limit = min(_BATCH, job.shard_bytes)
    texts: list[str] = []
    size = shard = 0
    last: Found | None = None
    for found in job.source.documents(start):
        if last and (size >= limit or found.part != last.part):
            yield _Batch(texts, last.part, last.after, last.seen, shard >= job.shard_bytes)
            texts, size, shard = [], 0, 0 if shard >= job.shard_bytes else shard
        texts.append(found.text)
        more = len(found.text.encode())
        size, shard, last = size + more, shard + more, found
    if last:
        yield _Batch(texts, last.part, last.after, last.seen, closes=True)


@dataclass(frozen=True)
class Encoder:
    """What a worker does with a batch."""

    tokenizer: Tokenizer
    separator: str | None
    share: float

    def __call__(self, batch: _Batch) -> Encoded:
        texts = [text + self.separator for text in batch.texts] if self.separator else batch.texts
        ids = self.tokenizer.encode_batch(texts)
        if self.separator is None:
            end = np.array([self.tokenizer.end], dtype=np.int64)
            ids = [np.concatenate([row, end]) for row in ids]
        parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
        for text, row in zip(batch.texts, ids, strict=True):
            parts[batch.part or part_of(text, self.share)].append(row)
        dtype = token_dtype(self.tokenizer.vocab_size)
        return {
            part: (np.concatenate(rows).astype(dtype), np.array([len(row) for row in rows], dtype=np.int64))
            for part, rows in parts.items()
        }


def _keep(work: Path, number: int, held: Sequence[Encoded], after: Place, tokenizer: str) -> None:
    """Write a shard of each part that has documents, then the record that makes them count."""
    entries = []
    for part in PARTS:
        found = [encoded[part] for encoded in held if part in encoded]
        if not found:
            continue
        name = f"{part}-{number:05d}.safetensors"
        tokens, lengths = np.concatenate([t for t, _ in found]), np.concatenate([n for _, n in found])
        beside = work / f"{name}.part"
        write_shard(beside, tokens, lengths.cumsum(), tokenizer)
        digest = sha256(beside)
        publish(beside, work / name)
        entries.append({"part": part, "file": name, "tokens": len(tokens), "documents": len(lengths), "sha256": digest})
    _write(work / f"{number:05d}.record", json.dumps({"shards": entries, "after": after}))


def _records(work: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(work.glob("*.record"))]


def _place(raw: Any) -> Place:
    return Place(raw[0], Position(*raw[1]))


def _write_manifest(job: Job, tokenizer: Tokenizer, about: list[dict[str, Any]]) -> None:
    entries = [entry for record in _records(job.work) for entry in record["shards"]]
    total = {
        part: {key: sum(e[key] for e in entries if e["part"] == part) for key in ("documents", "tokens")}
        for part in PARTS
    }
    if not total["train"]["tokens"]:
        raise UserError("data.path: there are no documents to train on; all are empty, or held out")
    files = tokenizer.files()
    manifest = {
        "format": FORMAT,
        "settings": job.settings,
        "sources": about,
        "tokenizer": {
            "config": job.tokenizer.model_dump(mode="json"),
            "vocab_size": tokenizer.vocab_size,
            "files": sorted(files),
            "sha256": tokenizer_digest(job.tokenizer, files),
        },
        "parts": total,
        "shards": entries,
    }
    _write(job.work / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _finish(job: Job) -> None:
    """Leave nothing but what belongs there, and move the folder to its place."""
    for file in (*job.work.glob("*.record"), *job.work.glob("*.part"), job.work / _JOB, job.work / _TOKENIZER):
        file.unlink(missing_ok=True)
    (job.work / _LOCK).unlink(missing_ok=True)
    job.work.rename(job.folder)
    handle = os.open(job.folder.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(file: Path, content: str | bytes) -> None:
    beside = file.with_name(f"{file.name}.part")
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    publish(beside, file)


@dataclass
class _Rate:
    """How far the tokenising is, counted from where it goes on."""

    job: Job
    begun: int | None = None
    narrator: Narrator = field(default_factory=lambda: Narrator("tokenised", unit="MB"))

    def __call__(self, seen: int) -> None:
        self.begun = seen if self.begun is None else self.begun
        if self.job.source.size:
            done, wanted = (n // _MEGABYTE for n in (seen - self.begun, self.job.source.size - self.begun))
            self.narrator(done or 1, wanted)
