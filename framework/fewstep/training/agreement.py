"""Whether all ranks train the same: recipe, code, versions, data and weights are compared before the first step."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from fewstep.core.errors import UserError
from fewstep.core.plugins import loaded
from fewstep.core.references import replace_references
from fewstep.denoisers.base import Network
from fewstep.recipe.models import Recipe
from fewstep.runtime.digest import weights_digest
from fewstep.runtime.hashing import sha256
from fewstep.runtime.ranks import Ranks
from fewstep.training.shares import check_objective

_PACKAGES = ("torch", "numpy", "safetensors", "pydantic")


def agree_on_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Check that all ranks have the same recipe, code and versions, and that a batch can be divided between them.

    Raises:
        UserError: a rank differs from the first one.
    """
    if not ranks.several:
        return
    plain = replace_references(recipe, lambda named: "").model_dump(mode="json", exclude={"plugins"})
    facts = {f"recipe: {key}": value for key, value in _leaves(plain)}
    modules = {plugin.name: getattr(sys.modules.get(plugin.module), "__file__", None) for plugin in loaded()}
    facts |= {f"plugin {name}": sha256(Path(file)) for name, file in modules.items() if file}
    facts |= {"code of fewstep": _code(), "version of python": platform.python_version()}
    facts |= {f"version of {name}": importlib.metadata.version(name) for name in _PACKAGES}
    _compare(facts, ranks)
    check_objective(recipe, ranks)


def agree_on_parts(data: str, roles: Mapping[str, Network], ranks: Ranks) -> None:
    """Check that all ranks have the same data (by their fingerprint), and networks of the same weights.

    Raises:
        UserError: a rank differs from the first one.
    """
    if not ranks.several:
        return
    _compare({"data": data, **{f"weights of '{name}'": weights_digest(role) for name, role in roles.items()}}, ranks)


def _compare(facts: Mapping[str, str], ranks: Ranks) -> None:
    """Check that each fact is the same on all ranks; ranks may take long to compute them."""
    texts = ranks.texts(json.dumps({"host": socket.gethostname(), "facts": dict(facts)}), patient=True)
    first, *others = (json.loads(text) for text in texts)
    for rank, other in enumerate(others, start=1):
        names = [*first["facts"], *other["facts"]]
        differing = [name for name in dict.fromkeys(names) if first["facts"].get(name) != other["facts"].get(name)]
        if differing:
            name = differing[0]
            ours, theirs = (str(side["facts"].get(name, "none"))[:60] for side in (first, other))
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise UserError(
                f"rank {rank} on {other['host']} differs from rank 0 on {first['host']} ({name}: {theirs} there, "
                f"{ours} on rank 0{more}); all ranks need the same recipe, code, data and models"
            )


def _leaves(node: object, path: str = "") -> list[tuple[str, str]]:
    """Dotted keys and values of a recipe."""
    if isinstance(node, dict) and node:
        return [leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}" if path else key)]
    return [(path, json.dumps(node))]


def _code() -> str:
    """Digest of all modules of the package."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
