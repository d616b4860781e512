"""Step grids: their ends and values, and that samplers with any of them keep the exact law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.grids.base import GRIDS
from fewstep.processes.base import PROCESSES
from fewstep.samplers.base import SAMPLERS
from fewstep.testing.grids import check_grid
from fewstep.testing.statistics import assert_same_distribution

FORMULAS: list[Any] = [
    "linear",
    "cosine",
    {"type": "polynomial", "power": 0.5},
    {"type": "polynomial", "power": 3.0},
    "removal",
]


@pytest.mark.parametrize("config", FORMULAS, ids=str)
def test_grid_conforms(config: Any) -> None:
    check_grid(config, most=200)


def test_every_grid_is_tried() -> None:
    """`measured` is one that reads its times from a file; it has tests of its own."""
    tried = {GRIDS.parse(config).type for config in FORMULAS}
    assert tried | {"measured"} == {entry.name for entry in GRIDS.entries() if entry.distribution[0] == "fewstep"}


def test_values_by_hand() -> None:
    def times(config: Any, steps: int) -> Any:
        return pytest.approx(GRIDS.build(config).times(steps))

    assert times("linear", 4) == [1, 0.75, 0.5, 0.25, 0]
    assert times("cosine", 3) == [1, math.sqrt(3) / 2, 0.5, 0]
    assert times({"type": "polynomial", "power": 2.0}, 4) == [1, 0.5625, 0.25, 0.0625, 0]
    assert times({"type": "removal", "time": 0.1}, 4) == [1, 0.7, 0.4, 0.1, 0]
    assert times("removal", 1) == [1, 0]
    assert times({"type": "polynomial", "power": 1.0}, 5) == GRIDS.build("linear").times(5)


@pytest.mark.parametrize("config", FORMULAS, ids=str)
@pytest.mark.parametrize(
    ("sampler", "process"),
    [
        ({"type": "ancestral"}, "masked"),
        ({"type": "ancestral"}, "uniform"),
        ({"type": "cached_ancestral"}, "masked"),
        ({"type": "confidence", "order": "random"}, "masked"),
    ],
    ids=str,
)
def test_samplers_stay_exact(sampler: Any, process: str, config: Any) -> None:
    """4,000 samples, 256 steps: fails by chance less than once in a billion."""
    source = Markov(Markov.Config(vocab_size=2, length=3, successors=1, smoothing=0.4, size=8))
    oracle = exact_denoiser(source, PROCESSES.build(process, vocab_size=2))
    built = SAMPLERS.build({**sampler, "grid": config})
    x = built.sample(oracle, 4000, steps=256, generator=Generator().manual_seed(3)).x
    index = x[:, 0] * 4 + x[:, 1] * 2 + x[:, 2]
    assert_same_distribution(torch.bincount(index, minlength=8), source.ngram_probs(3).flatten(), f"{config}")
