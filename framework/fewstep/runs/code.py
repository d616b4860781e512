"""Digest of the code that numbers depend on. It is part of the keys of results, so that other code measures anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from fewstep.core import plugins
from fewstep.core.entries import distribution_of
from fewstep.core.version import __version__

_EXCLUDED = ("bench", "cli", "cluster", "testing")
"""Packages that plan, start and check measurements, and change no number."""
_INCLUDED = ("bench/running/rows.py", "bench/running/speed.py")
"""Modules of these packages that do change numbers."""


def code_digest() -> str:
    """First 16 digits of a SHA-256 of fewstep's version, its modules that numbers depend on, and installed plugins."""
    digest = hashlib.sha256(f"{__version__} {_modules()}".encode())
    for point in sorted(entry_points(group=plugins.GROUP)):
        digest.update(f"{point.name} {point.dist.version if point.dist else ''}".encode())
    return digest.hexdigest()[:16]


def plugin_versions(names: Sequence[str]) -> list[str]:
    """Present versions of a recipe's plugins: the digest of a file, the version of a distribution."""
    return [
        hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
        if name.endswith(".py")
        else " ".join(distribution_of(name))
        for name in names
    ]


@cache
def _modules() -> str:
    """Digest of the modules. Cached, since a long run must not see edits of its own code."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if name.split("/")[0] not in _EXCLUDED or name in _INCLUDED:
            digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
