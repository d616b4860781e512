"""Errors for people: one sentence each, with the exit code of the command line."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fewstep.core.echo import safe_message, shown

MOST_PROBLEMS = 20
"""Limit on the problems that a message lists."""

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Unable to allocate",  # numpy's, through torch
    "std::bad_alloc",
    "could not create a memory object",  # oneDNN's
    "unable to mmap",
)
"""Parts of messages of RuntimeErrors that say that the machine's memory ran out."""
_DISK_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122", "File too large")
"""Parts of messages that say that a disk is full; libraries that write files have errors of their own."""
_TOO_LARGE = (
    "too large to convert",
    "int too large",
    "out of bounds for",
    "Overflow when unpacking",
    "cannot be converted to type int64_t without overflow",
    "Storage size calculation overflowed",
    "Exceeds the limit",
)
"""Parts of messages that say that a number does not fit into 64 bits, or into what Python reads."""
_WRONG_PATH = {
    errno.ENOENT: "check how the path is spelled",
    errno.EEXIST: "name another path, or move what is there",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENOTDIR: "a part of the path is a file: name a folder",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.EROFS: "name a path on a disk that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle: name the file itself",
}
"""Reasons of the system that lie in the path that it was given, and what to do about each."""


class FewstepError(Exception):
    """Base of all errors that are reported without a traceback; their messages hold no control characters."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(safe_message(arg) if isinstance(arg, str) else arg for arg in args))


class OperationError(FewstepError):
    """A failure at run time: a full disk, a loss that is not finite (exit code 1)."""

    exit_code = 1


class UserError(FewstepError):
    """A request that cannot be fulfilled: a wrong name, path or value (exit code 2)."""

    exit_code = 2


class UnfitModelError(UserError):
    """A model whose weights do not fit its recipe or the data of the request."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe: its place, the error, and a correction."""

    source: str
    line: int | None
    key: str
    message: str

    def __post_init__(self) -> None:
        texts = {"source": self.source, "message": self.message}
        for name, text in {name: safe_message(text, lines=False) for name, text in texts.items()}.items():
            object.__setattr__(self, name, text)
        object.__setattr__(self, "key", shown(self.key))

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class RecipeError(UserError):
    """A recipe or suite with one or more problems; the message lists the first 20, one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        listed = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        more = len(self.problems) - len(listed)
        super().__init__("\n".join([*listed, *([f"and {more} more"] if more else [])]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, the machine's (torch raises a plain RuntimeError), or a GPU's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def exit_code(error: BaseException) -> int:
    """Exit code of an error: 2 for the user's fault (a path, a number that is too large), otherwise 1."""
    if isinstance(error, FewstepError):
        return error.exit_code
    return 2 if path_remedy(error) or is_too_large(error) else 1


def path_remedy(error: BaseException) -> str | None:
    """What to do about an error of the system that lies in the path it was given; None for other errors."""
    if not isinstance(error, OSError) or error.filename is None or error.errno is None:
        return None
    return _WRONG_PATH.get(error.errno)


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk ran full, or a file would be larger than the system allows."""
    return any(sign in str(error) for sign in _DISK_FULL)


def is_too_large(error: BaseException) -> bool:
    """Whether a number was larger than its type allows."""
    if isinstance(error, OverflowError):
        return True
    return isinstance(error, RuntimeError | ValueError) and any(sign in str(error) for sign in _TOO_LARGE)
