"""The conformance check of each kind of component."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewstep.core.kinds import kind_named
from fewstep.core.registry import Raw
from fewstep.testing.backbones import check_backbone
from fewstep.testing.datasets import check_dataset
from fewstep.testing.grids import check_grid
from fewstep.testing.metrics import check_metric
from fewstep.testing.noise_inputs import check_noise_input
from fewstep.testing.objectives import check_objective
from fewstep.testing.processes import check_process
from fewstep.testing.samplers import check_sampler
from fewstep.testing.schedules import check_schedule
from fewstep.testing.supervisions import check_supervision
from fewstep.testing.tokenizers import check_tokenizer
from fewstep.testing.trackers import check_tracker

CHECKS: Mapping[str, Callable[[Raw], None]] = {
    "schedules": check_schedule,
    "processes": check_process,
    "backbones": check_backbone,
    "noise_inputs": check_noise_input,
    "grids": check_grid,
    "samplers": check_sampler,
    "objectives": check_objective,
    "supervisions": check_supervision,
    "tokenizers": check_tokenizer,
    "datasets": check_dataset,
    "metrics": check_metric,
    "trackers": check_tracker,
}
"""Checks by kind, as `fewstep list` names kinds; each has options of its own beside the configuration."""


def check_component(kind: str, config: Raw) -> None:
    """Check that a registered component keeps the contract of its kind, with the check's usual options.

    Args:
        kind: plural or singular ("objective").
        config: name, mapping or config of the component.

    Raises:
        UserError: there is no such kind.
        AssertionError: a check fails; the message names it.
    """
    CHECKS[kind_named(kind)](config)
