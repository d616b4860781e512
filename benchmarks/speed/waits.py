"""Operators at which a GPU would make the host wait: a step of each objective, and a step of each sampler."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from games import Size, game, network
from rows import Row

from fewstep.predictions.draws import refusals
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep.testing.synchronisations import Synchronisations

SIZE = Size(16, 16, 4, 16, 1)
OF_A_STEP, OF_A_SAMPLER = 1, 0
OBJECTIVES_OF = {
    "masked": ("denoising", "dmmd", "dmmd_instant", "sdtt", "consistency"),
    "uniform": ("denoising", "dmmd", "consistency"),
}
"""Objectives whose roles need nothing but a backbone; all others are in `tests/training/test_training_waits.py`."""


def of_objective(name: str, process: str) -> float:
    """Waits of a step, averaged over the phases; the first round may fill what stays."""
    player = game({"type": name}, process, SIZE)
    player.cycle()
    with refusals(), Synchronisations() as seen:  # the trainer collects refusals of draws too
        player.cycle()
    return seen.total / len(player.objective.phases())


def of_sampler(name: str, process: str) -> float:
    """Waits of a step: what four steps more cost, over four."""
    sampler = SAMPLERS.build(name)
    kind = "block_transformer" if sampler.traits.gives_context else "transformer"
    settings = {"block_size": 8} if sampler.traits.gives_context else {}
    model = network(SIZE, PROCESSES.build(process, vocab_size=SIZE.vocab), kind, **settings).eval()
    totals = []
    for steps in (4, 8):
        torch.manual_seed(0)
        with Synchronisations() as seen:
            sampler.sample(model, SIZE.batch, steps=steps, generator=SampleStreams(0, range(SIZE.batch)))
        totals.append(seen.total)
    return (totals[1] - totals[0]) / 4


def measure(quick: bool) -> Iterator[Row]:
    """Counts are exact, so the quick form is the full one."""
    for process in ("masked", "uniform"):
        for name in OBJECTIVES_OF[process]:
            count = of_objective(name, process)
            yield Row.of("waits", f"of a step, {name}, {process}", [count], goal=OF_A_STEP, tolerance=0.0)
        for name in SAMPLERS.names():
            traits = SAMPLERS.get(name).cls.traits
            if traits.only_steps or (traits.masks_only and process != "masked"):
                continue
            count = of_sampler(name, process)
            yield Row.of("waits", f"of a sampler's step, {name}, {process}", [count], goal=OF_A_SAMPLER, tolerance=0.0)
