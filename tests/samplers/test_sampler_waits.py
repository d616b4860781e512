"""A sampler's step does not wait for the device, but where its law asks for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep.samplers.filling import FillingSampler
from fewstep.samplers.walk import Step, Walk
from fewstep.testing.synchronisations import Synchronisations

ASKS = {
    "cached_ancestral": 1,  # which samples reveal a token: the others are not evaluated
    "entropy_bounded": 1,  # which samples have masks left: entropies decide it
}
"""Waits a step of samplers that evaluate only some samples, by what their draws have decided."""

MASKS = {
    ("masked", "analytic"): 3,
    ("masked", "block"): 4,  # two blocks
    ("masked", "block_ancestral"): 4,
    ("masked", "corrector"): 2,
    ("masked", "gibbs"): 2,
    ("masked", "psi"): 2,
    ("uniform", "flow"): 1,  # tokens that turn are drawn alone
    ("uniform", "gibbs"): 1,
    ("uniform", "psi"): 1,
}
"""Waits a step for the number of rows of a prediction, once for each set of tokens that is drawn.

1 for all other samplers of the masked process, 0 for those of the uniform one.
"""


@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if name != "one_step"])
def test_steps_wait_for_nothing_but_rows(name: str, process: str) -> None:
    sampler = SAMPLERS.build(name)
    if sampler.traits.masks_only and process == "uniform":
        pytest.skip("it fills in masks")
    few, many = (_waits(sampler, process, steps) for steps in (4, 8))
    allowed = MASKS.get((process, name), int(process == "masked")) + ASKS.get(name, 0)
    assert many.total - few.total <= 4 * allowed, f"{dict(many.counts)} in 8 steps, {dict(few.counts)} in 4"


def _waits(sampler: Any, process: str, steps: int) -> Synchronisations:
    torch.manual_seed(0)
    states = PROCESSES.build(process, vocab_size=8)
    kind = "block_transformer" if sampler.traits.gives_context else "transformer"
    tokens = TokenSpace(states.num_states, 8, 16)
    config = {"type": kind, "width": 16, "depth": 1, "heads": 2, **({"block_size": 8} if "block" in kind else {})}
    denoiser = NetworkDenoiser(BACKBONES.build(config, tokens=tokens), states).eval()
    with Synchronisations() as seen:
        sampler.sample(denoiser, 4, steps=steps, generator=SampleStreams(0, range(4)))
    return seen


@pytest.mark.parametrize("name", ["confidence", "first_hitting"])
@pytest.mark.parametrize("steps", [1, 3, 8, 30])
def test_who_goes_on_is_known_before_the_first_step(name: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts leave samples different numbers of masks: what was planned agrees with the masks at every step."""
    process, prompt = PROCESSES.build("masked", vocab_size=8), torch.full((4, 16), -1)
    for row, given in enumerate((0, 3, 12, 16)):
        prompt[row, :given] = 1
    denoiser = NetworkDenoiser(
        BACKBONES.build({"type": "transformer", "width": 16, "depth": 1, "heads": 2}, tokens=TokenSpace(9, 8, 16)),
        process,
    ).eval()
    plain, seen = FillingSampler._unfinished, []

    def compare(walk: Walk, x: Tensor, step: Step) -> Tensor | list[int]:
        planned = plain(walk, x, step)
        assert planned == walk.masks(x).any(1).nonzero()[:, 0].tolist()
        seen.append(planned)
        return planned

    monkeypatch.setattr(FillingSampler, "_unfinished", staticmethod(compare))
    cond, streams = Condition(prompt=prompt), SampleStreams(0, range(4))
    out = SAMPLERS.build(name).sample(denoiser, 4, steps=steps, generator=streams, cond=cond)
    assert len(seen) == steps
    assert all(3 not in numbers for numbers in seen), "nothing is left to fill in"
    assert out.nfe == sum(map(len, seen)) / 4
