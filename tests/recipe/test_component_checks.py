"""Checks that components make of their own sections."""

from __future__ import annotations

import pytest

from fewstep.core.errors import RecipeError
from fewstep.recipe import load_recipe


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["data.successors=9"], "--set:1: data.successors: 9 successors, but there are only 4 symbols"),
        (
            ["data=pydocs", "data.pieces=64"],
            "--set:2: data.pieces: a vocabulary of pieces needs `tokenizer: sentencepiece`",
        ),
        (["process=uniform", "objective.aux_target=soft"], "--set:2: objective.aux_target: soft targets are biased"),
        (["objective.updates=simultaneous", "objective.aux_steps=2"], "--set:2: objective.aux_steps: simultaneous"),
        (
            ["process=uniform", "objective={type: dmmd_instant, target: soft}"],
            "--set:2: objective.target: soft targets are biased",
        ),
        (
            ["objective=dmmd_instant", "train.batch_size=12", "train.accumulate=4"],
            "--set:1: objective: micro-batches of 3 cannot be halved; make train.batch_size a multiple of 8",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(sets: list[str], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("smoke-dmmd", sets)
    assert any(str(problem).startswith(told) for problem in caught.value.problems), str(caught.value)
