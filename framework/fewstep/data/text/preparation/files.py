"""Text files: those that a path names, and their bytes, unpacked while reading."""

from __future__ import annotations

import glob
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from fewstep.core.errors import UserError
from fewstep.runtime.hashing import sha256

PACKED = (".gz", ".zst", ".zip")
Format = Literal["text", "jsonl", "csv", "tsv"]
_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
_KNOWN = (".txt", ".text", ".md", ".raw", *_FORMATS)
_OTHERS = {
    **dict.fromkeys((".json", ".geojson"), "JSON"),
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), "a spreadsheet"),
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pdf", ".epub"), "a formatted document"),
    **dict.fromkeys((".arrow", ".feather", ".orc", ".avro", ".sqlite", ".db", ".h5", ".hdf5"), "a table in binary"),
    **dict.fromkeys((".npy", ".npz", ".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".bin"), "numbers in binary"),
    **dict.fromkeys((".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".lz4"), "an archive"),
}
"""Endings of files that hold no plain text, and what they are."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TextFile:
    """One file of a source; `name` is its path from the folder that the recipe names."""

    path: Path
    name: str
    size: int

    def format_by(self, setting: Literal["auto"] | Format) -> Format:
        """Format of the file: that of the setting, or for "auto" that of its name."""
        return format_of(self.path.name) if setting == "auto" else setting

    def sha256(self, on_read: Callable[[int], None] = lambda count: None) -> str:
        """SHA-256 of the bytes on disk; `on_read` is called with the number of bytes of each read."""
        try:
            return sha256(self.path, on_read)
        except OSError as error:
            raise UserError(f"data.path: cannot read '{self.path}': {error.strerror}") from None


def format_of(name: str) -> Format:
    """Format by a file's name, packed or not; plain text unless its ending says otherwise."""
    return _FORMATS.get(_ending(name), "text")


def is_plain_text(name: str) -> bool:
    """Whether a name says that the file is plain text."""
    return _ending(name) in _KNOWN and format_of(name) == "text"


def unread_format(name: str) -> str | None:
    """Reason why a file of this name is not read as text; None if it is."""
    label = _OTHERS.get(_ending(name))
    if label is None:
        return None
    kinds = f"{', '.join(_KNOWN)} (also packed: {', '.join(PACKED)}) or .parquet"
    return f"'{name}' is {label}, which is not read; convert it to one of {kinds}"


def _ending(name: str) -> str:
    """The last ending of a name, but for that of a packed file."""
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in PACKED else path.suffix


def find_files(path: Path, key: str = "data.path") -> list[TextFile]:
    """Files that a path names: one file, all text below a folder, or the matches of a glob; in order of their names.

    Raises:
        UserError: nothing is there, a file is empty, or a folder has no file of a known kind.
    """
    if path.is_dir():
        endings = tuple(kind + packed for kind in _KNOWN for packed in ("", *PACKED))
        inside = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        paths = [p for p in inside if p.is_file() and p.name.lower().endswith(endings)]
        if not paths:
            kinds = ", ".join(_KNOWN)
            raise UserError(f"{key}: no text in folder '{path}' ({kinds}, also packed: {', '.join(PACKED)})")
        root = path
    elif path.exists():
        paths, root = [path], path.parent
    else:
        paths = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
        if not paths:
            raise UserError(f"{key}: no file '{path}'")
        root = Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
    files = [TextFile(p, p.relative_to(root).as_posix(), p.stat().st_size) for p in paths]
    empty = [file for file in files if not file.size]
    if empty:
        raise UserError(f"{key}: '{empty[0].path}' is empty")
    return sorted(files, key=lambda file: file.name)


@contextmanager
def opened(file: TextFile) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Unpacked bytes of a file, and a function that returns the number of bytes read on disk so far.

    Raises:
        UserError: the file is unreadable, or packed and damaged or truncated.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(file.path.open("rb"))
            yield stack.enter_context(_unpacked(raw, file.path)), raw.tell
        except EOFError:
            raise UserError(f"data.path: '{file.path}' ends early; fetch it again") from None
        except (gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"data.path: '{file.path}' is damaged ({error}); fetch it again") from None
        except OSError as error:
            raise UserError(f"data.path: cannot read '{file.path}': {error.strerror or error}") from None


def _unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(raw, path), _BLOCK)
    if path.suffix == ".zip":
        try:
            archive = zipfile.ZipFile(raw)
            names = archive.namelist()
            if len(names) != 1:
                raise UserError(f"data.path: '{path}' holds {len(names)} files; unpack it and name the folder")
            return cast(BinaryIO, archive.open(names[0]))
        except (RuntimeError, ValueError, struct.error) as error:  # it is encrypted, or of a later version
            raise UserError(f"data.path: '{path}' cannot be unpacked ({error}); name an unpacked folder") from None
    return raw


class _Zstandard(io.RawIOBase):
    """Unpacked bytes of zstandard frames. zstandard's own reader accepts a truncated frame as complete."""

    def __init__(self, raw: BinaryIO, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise UserError(f"data.path: '{path.name}' needs zstandard: pip install zstandard") from None
        self._new, self._error = zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError
        self._raw, self._path, self._unread = raw, path, b""
        self._frame: Any = self._new()
        self._in_frame = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unread:
            packed = self._raw.read(1 << 16)
            if not packed:
                if self._in_frame:
                    raise EOFError
                return 0
            self._unread = self._unpack(packed)
        part, self._unread = self._unread[: len(buffer)], self._unread[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _unpack(self, packed: bytes) -> bytes:
        parts = []
        try:
            while packed:
                self._in_frame = True
                parts.append(self._frame.decompress(packed))
                packed = b""
                if self._frame.eof:
                    packed, self._frame, self._in_frame = self._frame.unused_data, self._new(), False
        except self._error as error:
            raise UserError(f"data.path: '{self._path}' is damaged ({error}); fetch it again") from None
        return b"".join(parts)
