"""Blocks from left to right on a network that sees whole samples: order, counts, laws and settings."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.recipe import parse_recipe
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS, Sampler, Samples, StepState
from fewstep.samplers.semi_autoregressive import blocks_to_draw, shares
from fewstep.testing.statistics import assert_same_distribution

V, L = 3, 4


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=8))


def build(inner: Any, size: int, **settings: Any) -> Sampler:
    return SAMPLERS.build({"type": "semi_autoregressive", "inner": inner, "block_size": size, **settings})


def draw(sampler: Sampler, source: Markov, count: int, steps: int, **more: Any) -> Samples:
    oracle = exact_denoiser(source, PROCESSES.build("masked", vocab_size=V))
    return sampler.sample(oracle, count, **{"generator": Generator().manual_seed(1), "steps": steps, **more})


def test_steps_are_divided_evenly() -> None:
    assert shares(12, 4) == [3, 3, 3, 3]
    assert shares(7, 3) == [2, 2, 3]
    assert shares(2, 3) == [1, 1, 1]
    assert all(sum(shares(steps, blocks)) == steps for blocks in range(1, 9) for steps in range(blocks, 40))


def test_blocks_without_masks_are_left_out() -> None:
    masks = torch.tensor([[True, False, False, False, True], [False, False, True, True, False]])
    assert blocks_to_draw(masks, 2).tolist() == [[True, False, True], [False, True, False]]
    assert blocks_to_draw(masks, 9).tolist() == [[True], [True]]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("inner", "size", "steps"), [("ancestral", 1, L), ("first_hitting", 2, L), ("ancestral", 3, 200)]
)
def test_the_law_is_exact_where_the_inner_sampler_is(inner: str, size: int, steps: int, source: Markov) -> None:
    """Blocks of one token are autoregressive sampling; first hitting needs a step a token."""
    out = draw(build(inner, size), source, 10_000, steps)
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    index = (out.x * V ** torch.arange(L - 1, -1, -1)).sum(1)
    assert_same_distribution(
        torch.bincount(index, minlength=V**L), source.log_likelihood(every).exp(), f"{inner}, {size}"
    )
    assert out.nfe == steps


@pytest.mark.parametrize("inner", ["ancestral", "cached_ancestral", "confidence", "entropy_bounded", "first_hitting"])
def test_later_blocks_wait_and_earlier_ones_stay(inner: str, source: Markov) -> None:
    states: list[StepState] = []
    out = draw(build(inner, 2), source, 5, 6, on_step=states.append)
    assert [state.index for state in states] == list(range(6))
    for state in states[:3]:
        assert (state.x[:, 2:] == V).all()
    for state in states[2:]:
        assert torch.equal(state.x[:, :2], out.x[:, :2])
    assert [state.s for state in states] == pytest.approx([2 / 3, 1 / 3, 0] * 2)
    assert torch.equal(states[-1].x, out.x)
    assert out.nfe <= 6


def test_given_blocks_take_no_steps_and_each_sample_divides_its_own(source: Markov) -> None:
    given = torch.tensor([[-1, -1, -1, -1], [0, 1, -1, -1], [0, -1, 2, 1], [2, 2, 2, 2]])
    sampler, cond = build("ancestral", 2), Condition(prompt=given)
    out = draw(sampler, source, 4, 4, generator=SampleStreams(0, range(4)), cond=cond)
    assert out.nfe == (4 + 4 + 4 + 0) / 4
    assert (out.x == given)[given >= 0].all()
    assert int(out.x.max()) < V
    few = draw(sampler, source, 4, 1, cond=cond)
    assert few.nfe == (2 + 1 + 1 + 0) / 4  # a step for each block, though one was asked for

    def alone(number: int) -> Tensor:
        streams = SampleStreams(0, [number])
        part = Condition(prompt=given[number : number + 1])
        return draw(sampler, source, 1, 4, generator=streams, cond=part).x

    assert torch.equal(out.x, torch.cat([alone(number) for number in range(4)]))


def test_a_block_as_long_as_the_sample_is_the_inner_sampler(source: Markov) -> None:
    plain = draw(SAMPLERS.build({"type": "confidence", "temperature": 0.5, "grid": "cosine"}), source, 50, 3)
    whole = draw(build("confidence", 99, temperature=0.5, grid="cosine"), source, 50, 3)
    assert torch.equal(plain.x, whole.x)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("nothing", "no sampler named 'nothing'"),
        ("block_ancestral", "'block_ancestral' cannot draw a block of a larger sample"),
        ("semi_autoregressive", "'semi_autoregressive' cannot draw a block of a larger sample"),
        ({"type": "confidence", "temperature": 0.5}, "set temperature beside inner, not in it"),
        ({"type": "confidence", "order": "best"}, "should be 'confidence'"),
    ],
)
def test_inner_samplers_that_cannot_be(inner: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        build(inner, 2)


def test_recipes_see_what_the_inner_sampler_cannot() -> None:
    recipe: dict[str, Any] = {
        "name": "r",
        "data": "markov",
        "process": "masked",
        "backbone": "transformer",
        "objective": "denoising",
        "train": {"steps": 1},
    }

    def parse(sampler: dict[str, Any], **changes: Any) -> None:
        parse_recipe({**recipe, **changes, "sampler": {"type": "semi_autoregressive", **sampler}})

    parse({})
    with pytest.raises(RecipeError, match=r"sampler\.grid: the times of first_hitting"):
        parse({"inner": "first_hitting", "grid": "cosine"})
    with pytest.raises(RecipeError, match="fills in masks, and the uniform process has none"):
        parse({}, process="uniform")
