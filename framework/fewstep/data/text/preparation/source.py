"""All documents of a corpus, in one order, from any position; a hash decides which are held out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fewstep.data.text.preparation.documents import BEGIN, Document, Position, Rules, read_documents
from fewstep.data.text.preparation.files import TextFile

SAMPLED_CHARACTERS = 10_000
"""Limit on the characters of one document that a tokenizer learns from."""


class Stream(Protocol):
    """Documents in a fixed order."""

    size: int | None
    """Total in the unit of `Document.amount_read`; None if unknown."""

    def documents(self, start: Position = BEGIN) -> Iterator[Document]: ...

    def origins(self, on_read: Callable[[int], None]) -> list[dict[str, object]]:
        """The manifest's entries for the origins of the documents; `on_read` gets the bytes of each read."""


class Files:
    """Documents in files."""

    def __init__(self, files: list[TextFile], rules: Rules) -> None:
        self.files, self.rules = files, rules
        self.size: int | None = sum(file.size for file in files)

    def documents(self, start: Position = BEGIN) -> Iterator[Document]:
        return read_documents(self.files, self.rules, start)

    def origins(self, on_read: Callable[[int], None]) -> list[dict[str, object]]:
        return [{"name": file.name, "bytes": file.size, "sha256": file.sha256(on_read)} for file in self.files]


class Place(NamedTuple):
    """Place at which reading resumes: number of the stream, and the position in it."""

    stream: int = 0
    position: Position = BEGIN


START = Place()


class SourceDocument(NamedTuple):
    """A text, its part (None where a hash decides), the place after it, and the amount read up to there."""

    text: str
    part: str | None
    after: Place
    amount_read: int


@dataclass(frozen=True)
class Source:
    """Streams, each with its part: "train", "held_out", or None where a hash decides.

    A document is held out if the hash of its text falls below `share`. Its part therefore stays the same when other
    documents are added, and two copies of one text always share a part.
    """

    streams: Sequence[tuple[Stream, str | None]]
    share: float

    @property
    def size(self) -> int | None:
        """Total of all streams."""
        sizes = [stream.size for stream, _ in self.streams]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def documents(self, start: Place = START) -> Iterator[SourceDocument]:
        """All documents from a place on."""
        before = sum(stream.size or 0 for stream, _ in self.streams[: start.stream])
        for number, (stream, part) in list(enumerate(self.streams))[start.stream :]:
            for text, after, amount_read in stream.documents(start.position if number == start.stream else BEGIN):
                yield SourceDocument(text, part, Place(number, after), before + amount_read)
            before += stream.size or 0

    def origins(self, on_read: Callable[[int], None]) -> list[dict[str, object]]:
        """Origins of the documents: names, sizes and hashes."""
        return [{"part": part, **row} for stream, part in self.streams for row in stream.origins(on_read)]


def part_of(text: str, share: float) -> str:
    """Part of a document, decided by the hash of its text."""
    return "held_out" if _hash(text, b"split") < share * 2**64 else "train"


def sample(documents: Iterable[SourceDocument], count: int, share: float) -> list[str]:
    """Beginnings of the `count` training documents with the smallest hashes, in the order of the hashes."""
    heap: list[tuple[int, str]] = []  # hashes are negated: the heap's first entry has the largest
    for text, part, _, _ in documents:
        if (part or part_of(text, share)) != "train":
            continue
        entry = (-_hash(text, b"sample"), text[:SAMPLED_CHARACTERS])
        if len(heap) < count:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)
    return [text for _, text in sorted(heap, reverse=True)]


def _hash(text: str, purpose: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=purpose).digest(), "big")
