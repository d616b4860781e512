"""All registries, by the name of their kind on the command line. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from fewstep.core.echo import shown
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean
from fewstep.core.registry import Registry

_PLACES = {
    "schedules": ("fewstep.schedules.base", "SCHEDULES"),
    "processes": ("fewstep.processes.base", "PROCESSES"),
    "backbones": ("fewstep.backbones.base", "BACKBONES"),
    "noise_inputs": ("fewstep.adapters.noise.base", "NOISE_INPUTS"),
    "grids": ("fewstep.grids.base", "GRIDS"),
    "samplers": ("fewstep.samplers.base", "SAMPLERS"),
    "objectives": ("fewstep.objectives.base", "OBJECTIVES"),
    "supervisions": ("fewstep.supervision.base", "SUPERVISIONS"),
    "tokenizers": ("fewstep.data.text.tokenizers.base", "TOKENIZERS"),
    "datasets": ("fewstep.data.base", "DATASETS"),
    "metrics": ("fewstep.metrics.base", "METRICS"),
    "trackers": ("fewstep.trackers.base", "TRACKERS"),
}

KINDS = tuple(_PLACES)


def kind_named(word: str, kinds: Sequence[str] = KINDS) -> str:
    """The kind named by a word, plural or singular ("objective").

    Raises:
        UserError: there is no such kind.
    """
    singular = {kind.removesuffix("es" if kind == "processes" else "s"): kind for kind in kinds}
    if word not in kinds and word not in singular:
        hint = did_you_mean(word, kinds) or ";"
        raise UserError(f"no kind of component named '{shown(word)}'{hint} known: {', '.join(kinds)}")
    return singular.get(word, word)


def registry(kind: str) -> Registry[Any]:
    """The registry of one kind ("objectives").

    Raises:
        UserError: there is no such kind.
    """
    module, attribute = _PLACES[kind_named(kind)]
    components: Registry[Any] = getattr(import_module(module), attribute)
    return components
