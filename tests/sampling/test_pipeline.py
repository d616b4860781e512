"""`Pipeline` takes plain data and speaks of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def test_a_call_samples(pipe: Pipeline) -> None:
    assert torch.equal(pipe(3, steps=2, seed=1).tokens, pipe.sample(3, steps=2, seed=1).tokens)


def test_batches_are_the_samples_one_after_the_other(pipe: Pipeline) -> None:
    parts = list(pipe.batches(7, steps=2, seed=1, batch_size=3))
    assert [len(part) for part in parts] == [3, 3, 1]
    whole = pipe.sample(7, steps=2, seed=1)
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert {part.nfe for part in parts} == {whole.nfe}
    with pytest.raises(UserError, match="steps: expected a number from 1"):
        pipe.batches(7, steps=0)  # before anything is drawn


def test_progress_counts_steps_of_samples(pipe: Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    counted = pipe.sample(5, steps=3, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {15}
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (2, 15)
    assert torch.equal(counted.tokens, pipe.sample(5, steps=3, progress=False).tokens), "watching changes nothing"


def test_to_changes_device_and_type(pipe: Pipeline) -> None:
    before = pipe.sample(4, steps=2).tokens
    assert pipe.to("cpu", torch.bfloat16) is pipe
    assert (pipe.dtype, str(pipe.device)) == ("bfloat16", "cpu")
    assert pipe.to(dtype="float32").sample(4, steps=2).tokens.equal(before)
    with pytest.raises(UserError, match="no device 'gpu' here"):
        pipe.to("gpu", "float16")
    assert pipe.dtype == "float32", "a request that is refused changes nothing"
    with pytest.raises(UserError, match="no dtype 'int8'; take float32"):
        pipe.to(dtype="int8")  # type: ignore[arg-type]


def test_a_saved_pipeline_draws_the_same(pipe: Pipeline, tmp_path: Path) -> None:
    samples = pipe.sample(4, steps=2).tokens
    folder = pipe.save_pretrained(tmp_path / "one")
    exported = Pipeline.from_pretrained(folder, device="cpu")
    assert exported.sample(4, steps=2).tokens.equal(samples)
    copy = exported.save_pretrained(tmp_path / "two")
    assert Pipeline.from_pretrained(copy, device="cpu").sample(4, steps=2).tokens.equal(samples)
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == files
    with pytest.raises(UserError, match="exists already; name another folder with out"):
        pipe.save_pretrained(folder)
    with pytest.raises(UserError, match="weights in float32; export the run of its training in float16"):
        exported.save_pretrained(tmp_path / "three", dtype="float16")
    assert not (tmp_path / "three").exists()


def test_results_are_read_by_index(pipe: Pipeline) -> None:
    drawn = pipe.sample(5, steps=2)
    assert [part.texts[0] for part in drawn] == drawn.texts
    assert drawn[-1].texts == drawn.texts[-1:]
    assert drawn[1:3].texts == drawn.texts[1:3]
    with pytest.raises(IndexError, match="sample 5 of 5"):
        drawn[5]


def test_a_notebook_shows_texts(pipe: Pipeline) -> None:
    drawn = pipe.sample(30, steps=2)
    shown = drawn._repr_html_()
    assert shown.count("<pre") == 20
    assert "30 samples, 2 network evaluations each; the first 20 are shown" in shown
    assert drawn.picture() is None
    assert repr(drawn).startswith("<Generated: 30 samples, 2 network evaluations each, first '")
    table = pipe._repr_html_()
    assert "<th>made for</th>" in table
    assert "smoke-teacher" in repr(pipe)


def test_a_notebook_shows_pictures(train: Callable[..., RunDir]) -> None:
    sets = ("train.steps=2", "backbone.width=16", "backbone.depth=1", "train.batch_size=4", "train.device=cpu")
    digits = Pipeline.from_pretrained(train("digits-teacher", "digits", *sets), device="cpu").sample(3, steps=1)
    picture = digits.picture(columns=1)
    assert picture is not None
    assert 2.5 < picture.height / picture.width < 3, "one in a row, with frames"
    assert 'src="data:image/png;base64,' in digits._repr_html_()
    assert "<pre" not in digits._repr_html_()


def test_texts_of_strangers_are_no_html(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = pipe.sample(1, steps=1)
    monkeypatch.setattr(type(drawn.dataset), "to_text", lambda self, samples: ["<script>alert(1)</script>"])
    assert "<script>" not in drawn._repr_html_()
