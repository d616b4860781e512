"""Errors for people: one sentence each, with the exit code of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


class FewstepError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1


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

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class RecipeError(UserError):
    """A recipe or suite with one or more problems; all of them are listed at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
