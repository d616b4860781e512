"""`Pipeline` takes plain data and speaks of its arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fewstep import Pipeline
from fewstep.core.errors import UserError
from fewstep.runs.folder import RunDir


@pytest.fixture
def pipe(train: Callable[..., RunDir]) -> Pipeline:
    return Pipeline.from_pretrained(train("smoke-teacher", "run").path, device="cpu")


def test_a_sampler_is_yaml_or_a_dict(pipe: Pipeline) -> None:
    written = pipe.sample(4, steps=2, sampler="{type: ancestral, temperature: 0.5}").tokens
    assert torch.equal(pipe.sample(4, steps=2, sampler={"type": "ancestral", "temperature": 0.5}).tokens, written)
    blanks = torch.full((1, pipe.dataset.spec.length), -1)
    filled = pipe.infill(blanks, 4, steps=2, sampler="first_hitting").tokens
    assert torch.equal(pipe.infill(blanks, 4, steps=2, sampler={"type": "first_hitting"}).tokens, filled)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sampler": {"type": "ancestrl"}}, "sampler: sampler.type: no sampler named 'ancestrl'"),
        ({"sampler": {"type": "ancestral", "temprature": 1}}, "sampler: sampler.temprature: unknown key 'temprature'"),
        ({"sampler": {}}, "sampler: sampler: expected the name of a sampler"),
        ({"sampler": ""}, "sampler: expected the name of a sampler"),
        ({"sampler": ["ancestral"]}, "sampler: sampler: expected the name of a sampler"),
        ({"top_p": -1.0}, "top_p: sampler.top_p: should be greater than 0"),
        ({"temperature": float("nan")}, "temperature: sampler.temperature: should be"),
        ({"label": 1}, "leave label out"),
        ({"guidance": 2.0}, "was trained without labels"),
        ({"prompt": "\ud800"}, "prompt: "),
        ({"n": 0}, "n: expected a number from 1"),
        ({"steps": 10**20}, "steps: expected a number from 1 to"),
        ({"n": 10**20}, "n: expected a number from 1 to"),
    ],
    ids=str,
)
def test_messages_name_arguments(pipe: Pipeline, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(UserError) as caught:
        pipe.sample(**{"n": 2, "steps": 1, **arguments})  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert "--" not in str(caught.value)
