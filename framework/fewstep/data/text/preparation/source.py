"""All documents of a corpus, in one order, from any position on; and which of them are held out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fewstep.data.text.preparation.documents import BEGIN, Document, Position, Rules, read_documents
from fewstep.data.text.preparation.files import TextFile

SAMPLED_CHARACTERS = 10_000
"""What a tokenizer learns from of one document, at most."""


class Stream(Protocol):
    """Documents that are read one after the other."""

    size: int | None
    """In the unit of `Document.seen`; None if nobody knows."""

    def documents(self, start: Position = BEGIN) -> Iterator[Document]: ...

    def about(self, seen: Callable[[int], None]) -> list[dict[str, Any]]:
        """What the manifest says of where they come from."""


class Files:
    """Documents in files."""

    def __init__(self, files: list[TextFile], rules: Rules) -> None:
        self.files, self.rules = files, rules
        self.size: int | None = sum(file.size for file in files)

    def documents(self, start: Position = BEGIN) -> Iterator[Document]:
        return read_documents(self.files, self.rules, start)

    def about(self, seen: Callable[[int], None]) -> list[dict[str, Any]]:
        return [{"name": file.name, "bytes": file.size, "sha256": file.sha256(seen)} for file in self.files]


class Place(NamedTuple):
    """Where to read on: number of the stream, and the position within."""

    stream: int = 0
    position: Position = BEGIN


START = Place()


class Found(NamedTuple):
    """A text, its part (None where a hash decides), the place after it, and how much was read by then."""

    text: str
    part: str | None
    after: Place
    seen: int


@dataclass(frozen=True)
class Source:
    """Streams, and the part that each belongs to: "train", "held_out", or None where a hash decides.

    A document is held out if the hash of its text falls below `share`: so it stays where it is whatever else is added,
    and two copies of one text are never on both sides.
    """

    streams: Sequence[tuple[Stream, str | None]]
    share: float

    @property
    def size(self) -> int | None:
        """Of all streams together."""
        sizes = [stream.size for stream, _ in self.streams]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def documents(self, start: Place = START) -> Iterator[Found]:
        """Every document from a place on."""
        before = sum(stream.size or 0 for stream, _ in self.streams[: start.stream])
        for number, (stream, part) in list(enumerate(self.streams))[start.stream :]:
            for text, after, seen in stream.documents(start.position if number == start.stream else BEGIN):
                yield Found(text, part, Place(number, after), before + seen)
            before += stream.size or 0

    def about(self, seen: Callable[[int], None]) -> list[dict[str, Any]]:
        """Where the documents come from: names, sizes and hashes."""
        return [{"part": part, **row} for stream, part in self.streams for row in stream.about(seen)]


def part_of(text: str, share: float) -> str:
    """The part that a hash gives a document."""
    return "held_out" if _hash(text, b"split") < share * 2**64 else "train"


def sample(documents: Iterable[Found], count: int, share: float) -> list[str]:
    """The beginnings of `count` documents of the training part, those with the smallest hashes, in that order."""
    kept: list[tuple[int, str]] = []
    for text, part, _, _ in documents:
        if (part or part_of(text, share)) != "train":
            continue
        entry = (-_hash(text, b"sample"), text[:SAMPLED_CHARACTERS])
        if len(kept) < count:
            heapq.heappush(kept, entry)
        elif entry > kept[0]:
            heapq.heapreplace(kept, entry)
    return [text for _, text in sorted(kept, reverse=True)]


def _hash(text: str, purpose: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=purpose).digest(), "big")
