"""Which code makes the numbers: a digest that changes with it, so that results of other code are not taken for its."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from fewstep.core import plugins
from fewstep.core.entries import distribution_of
from fewstep.core.version import __version__

_WITHOUT = ("bench", "cli", "testing")
"""Packages that shape, start and check what is measured, and change no number."""
_MEASURING = ("bench/running/rows.py", "bench/running/speed.py")
"""What of them does."""


def code_digest() -> str:
    """First 16 digits of a SHA-256 of fewstep's version, its modules that numbers depend on, and installed plugins."""
    found = hashlib.sha256(f"{__version__} {_modules()}".encode())
    for point in sorted(entry_points(group=plugins.GROUP)):
        found.update(f"{point.name} {point.dist.version if point.dist else ''}".encode())
    return found.hexdigest()[:16]


def plugin_versions(names: Sequence[str]) -> list[str]:
    """What the plugins that a recipe lists are at present: the digest of a file, the version of a distribution."""
    return [
        hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
        if name.endswith(".py")
        else " ".join(distribution_of(name))
        for name in names
    ]


@cache
def _modules() -> str:
    """The modules as they were when this process first asked."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if name.split("/")[0] not in _WITHOUT or name in _MEASURING:
            found.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return found.hexdigest()
