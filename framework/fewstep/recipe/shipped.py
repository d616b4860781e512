"""The recipes and suites shipped with fewstep: inside an installed wheel, or in the checkout. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fewstep.core.echo import shown
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
"""The package's folder."""
_CHECKOUT = {"recipes": "recipes", "suites": "benchmarks/suites"}


def shipped_folder(kind: Literal["recipes", "suites"]) -> Path | None:
    """Folder of the shipped files; None if this installation has none."""
    installed, checkout = PACKAGE / "shipped" / kind, PACKAGE.parents[1]
    if installed.is_dir():
        return installed
    source = checkout / _CHECKOUT[kind]
    return source if source.is_dir() and (checkout / "pyproject.toml").is_file() else None


def shipped_recipes() -> dict[str, Path]:
    """Every runnable recipe, by name (the file's name without `.yaml`)."""
    return {path.stem: path for name, path in _files("recipes").items() if not _is_base(name)}


def shipped_bases() -> dict[str, Path]:
    """Bases for `extends`: every file below a name that starts with `_`, by path (`_base/digits`)."""
    return {name: path for name, path in _files("recipes").items() if _is_base(name)}


def shipped_suites() -> dict[str, Path]:
    """Every benchmark suite, by name."""
    return {path.stem: path for path in _files("suites").values()}


def find_shipped(kind: Literal["recipe", "base", "suite"], name: str) -> Path:
    """Path of a shipped file by name; kind "base" finds recipes too.

    Raises:
        UserError: there is no such name; the message suggests the nearest.
    """
    known = shipped_suites() if kind == "suite" else shipped_recipes()
    if kind == "base":
        known = {**shipped_bases(), **known}
    if name not in known:
        label, other, verb = ("suite", "recipe", "train") if kind == "suite" else ("recipe", "suite", "benchmark")
        hint = did_you_mean(name, known) or f"; `fewstep list {label}s` shows them, and a path ends in .yaml"
        if name in (shipped_recipes() if other == "recipe" else shipped_suites()):
            hint = f"; it is a {other}: `fewstep {verb} {name}`"
        raise UserError(f"no shipped {label} named '{shown(name)}'{hint}")
    return known[name]


def is_path(source: str) -> bool:
    """Whether `source` is the path of a file, not the name of a shipped one."""
    return source.endswith((".yaml", ".yml")) or source.startswith(".")


def summary(path: Path) -> str:
    """The first line of a file's opening comment."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return ""
        text = line.lstrip("#").strip()
        if text and not text.startswith("yaml-language-server:"):
            return text
    return ""


def _files(kind: Literal["recipes", "suites"]) -> dict[str, Path]:
    folder = shipped_folder(kind)
    paths = sorted(folder.rglob("*.yaml")) if folder else []
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths if folder}


def _is_base(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("/"))
