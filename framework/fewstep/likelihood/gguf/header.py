"""What a GGUF file says of itself: its settings, and the places of its tensors.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. The readers of
the packages gguf and transformers trust the counts and lengths in a file: a file of 100 bytes may make them loop for
hours, and one that is cut off may give shorter tensors. So every count is compared with the file's size before anything
is read by it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

from fewstep.core.echo import shown
from fewstep.core.errors import UserError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_ALIGNMENT = 32
"""Bytes that the tensors are aligned to, unless the file says otherwise."""
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Formats of `struct` by the type of a value."""
_MOST_VALUES = 4_000_000
"""Limit on the values of an array; the largest vocabularies have 0.3 million tokens."""
_MOST_DIMENSIONS = 4


class BrokenGGUFError(UserError):
    """A file that is no GGUF file, is cut off, or contradicts itself."""


class _Fault(Exception):
    """What is wrong with a file, as a phrase after its name."""


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies: `shape` in the order of torch, the number of its type in ggml, and its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GGUFHeader:
    """Settings by key, and tensors by name; every tensor lies within the file."""

    path: Path
    settings: dict[str, object]
    tensors: dict[str, TensorPlace]


Sizes = Callable[[int], tuple[int, int] | None]
"""Numbers in a block of a type of ggml, and bytes of that block; None for an unknown type."""


def read_header(path: Path, sizes: Sizes) -> GGUFHeader:
    """Read the beginning of a file.

    Raises:
        BrokenGGUFError: the file is no GGUF file of these versions, ends too early, or contradicts itself.
    """
    try:
        with path.open("rb") as file, _mapped(file.fileno(), path.stat().st_size) as data:
            return _Reader(data, sizes).header(path)
    except _Fault as fault:
        raise BrokenGGUFError(f"'{path}' {fault}") from None
    except OSError as error:
        raise BrokenGGUFError(f"'{path}' cannot be read: {error.strerror or error}") from None


@contextmanager
def _mapped(number: int, size: int) -> Iterator[memoryview]:
    if not size:
        raise _Fault("is empty: download it again")
    with mmap.mmap(number, 0, access=mmap.ACCESS_READ) as pages, memoryview(pages) as data:
        yield data


class _Reader:
    """Reads from `data` at `place`; nothing is taken that does not lie within it."""

    def __init__(self, data: memoryview, sizes: Sizes) -> None:
        self.data, self.sizes, self.place = data, sizes, 0

    def header(self, path: Path) -> GGUFHeader:
        if bytes(self.data[:4]) != _MAGIC:
            raise _Fault("is no GGUF file: name a file of llama.cpp's format, or the folder of a model in safetensors")
        self.place = len(_MAGIC)
        version = self.scalar("I")
        if version not in _VERSIONS:
            raise _Fault(
                f"says that it is GGUF version {version}, and versions 2 and 3 in little-endian order can be read: "
                "download it again, or convert it again with a newer llama.cpp"
            )
        tensors, settings = self.count("tensors", least=24), self.count("settings", least=13)
        values = dict(self.unique("setting", settings, self.setting))
        places = [self.tensor() for _ in range(tensors)]
        return GGUFHeader(path, values, self.placed(places, values.get("general.alignment", _ALIGNMENT)))

    def take(self, size: int) -> memoryview:
        end = self.place + size
        if end > len(self.data):
            raise _Fault(
                f"is cut off or broken: it has {len(self.data):,} bytes, and what begins at byte {self.place:,} needs "
                f"{size:,}; download it again"
            )
        part = self.data[self.place : end]
        self.place = end
        return part

    def scalar(self, form: str) -> int | float | bool:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]  # type: ignore[no-any-return]

    def count(self, label: str, *, least: int) -> int:
        """A number of things, of at least `least` bytes each, that the rest of the file can hold."""
        count = int(self.scalar("Q"))
        if count * least > len(self.data) - self.place:
            raise _Fault(
                f"is cut off or broken: it promises {count:,} {label} and has {len(self.data):,} bytes; download it "
                "again"
            )
        return count

    def text(self) -> str:
        size = int(self.scalar("Q"))
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            raise _Fault(f"is broken: its text at byte {self.place - size:,} is no UTF-8; download it again") from None

    def unique(self, label: str, count: int, read: Callable[[], tuple[str, object]]) -> Iterator[tuple[str, object]]:
        names: set[str] = set()
        for _ in range(count):
            name, value = read()
            if name in names:
                raise _Fault(f"is broken: it has two {label}s named '{shown(name)}'; download it again")
            names.add(name)
            yield name, value

    def setting(self) -> tuple[str, object]:
        key = self.text()
        return key, self.value(int(self.scalar("I")), key)

    def value(self, kind: int, key: str) -> object:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise _Fault(f"is broken: setting '{shown(key)}' has the unknown type {kind}; download it again")
        kind = int(self.scalar("I"))
        if kind not in _SCALARS and kind != _STRING:
            raise _Fault(f"has lists of type {kind} in setting '{shown(key)}', which cannot be read: download it again")
        count = self.count(f"values of '{shown(key)}'", least=8 if kind == _STRING else struct.calcsize(_SCALARS[kind]))
        if count > _MOST_VALUES:
            raise _Fault(f"has {count:,} values in setting '{shown(key)}', and {_MOST_VALUES:,} can be read")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        form = f"<{count}{_SCALARS[kind]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form))))

    def tensor(self) -> TensorPlace:
        """A tensor whose start is counted from the first byte of all tensors."""
        name = self.text()
        dimensions = int(self.scalar("I"))
        if dimensions > _MOST_DIMENSIONS:
            raise _Fault(f"is broken: tensor '{shown(name)}' has {dimensions} dimensions; download it again")
        shape = tuple(int(self.scalar("Q")) for _ in range(dimensions))[::-1]
        kind, start = int(self.scalar("I")), int(self.scalar("Q"))
        block = self.sizes(kind)
        if block is None:
            raise _Fault(
                f"has tensor '{shown(name)}' of the unknown type {kind}: download it again, or install a newer gguf "
                "(pip install -U gguf)"
            )
        numbers, size = block
        if not shape or shape[-1] % numbers:
            raise _Fault(
                f"is broken: the rows of tensor '{shown(name)}' are no whole blocks of {numbers}; download it again"
            )
        return TensorPlace(name, shape, kind, start, prod(shape) // numbers * size)

    def placed(self, tensors: list[TensorPlace], alignment: object) -> dict[str, TensorPlace]:
        """Tensors with their starts in the file."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise _Fault("is broken: its setting 'general.alignment' is no power of two; download it again")
        first = -(-self.place // alignment) * alignment
        found: dict[str, TensorPlace] = {}
        for tensor in tensors:
            start = first + tensor.start
            if start + tensor.size > len(self.data):
                raise _Fault(
                    f"is cut off or broken: it has {len(self.data):,} bytes, and tensor '{shown(tensor.name)}' ends at "
                    f"byte {start + tensor.size:,}; download it again"
                )
            if tensor.name in found:
                raise _Fault(f"is broken: it has two tensors named '{shown(tensor.name)}'; download it again")
            found[tensor.name] = TensorPlace(tensor.name, tensor.shape, tensor.kind, start, tensor.size)
        return found
