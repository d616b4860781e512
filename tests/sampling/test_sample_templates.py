"""Prompts and templates: they reach the samples unchanged, and what is wrong with them is told in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES
from fewstep.runs.folder import RunDir
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.sampling.templates import cycle_rows, templates

Train = Callable[..., RunDir]
TEXT = "ab cd\n" * 40
DRAWN = -1


@pytest.fixture
def text(tmp_path: Path) -> Dataset:
    return build(tmp_path)


def build(folder: Path, tokenizer: str = "char", content: str = TEXT) -> Dataset:
    (folder / "t.txt").write_text(content)
    config = {"type": "text", "path": str(folder / "t.txt"), "length": 8, "tokenizer": tokenizer, "pieces": 24}
    return DATASETS.build(config if tokenizer != "char" else {k: v for k, v in config.items() if k != "pieces"})


def file(folder: Path, content: str | Tensor, name: str = "tokens") -> str:
    path = folder / ("given.txt" if isinstance(content, str) else "given.safetensors")
    if isinstance(content, str):
        path.write_text(content)
    else:
        save_file({name: content}, path)
    return str(path)


# --------------------------------------------------------------------- given tokens stay


JOINT = ["{type: ancestral, precision: joint_fp64}", "{type: ancestral, precision: joint_fp32}"]


@pytest.mark.parametrize("config", [*SAMPLERS.names(), *JOINT])
@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_given_tokens_are_unchanged_under_a_thousand_masks(config: str, process: str) -> None:
    sampler = SAMPLERS.build(yaml.safe_load(config))
    if process == "uniform" and (sampler.traits.masks_only or config in JOINT):
        pytest.skip(f"{config} fills in masks")
    source = Markov(Markov.Config(vocab_size=5, length=8, successors=2, size=8))
    # The schedule ends far from alpha = 1, and still no mask may be left.
    noise = PROCESSES.build({"type": process, "schedule": {"type": "linear", "eps": 0.05}}, vocab_size=5)
    oracle = exact_denoiser(source, noise, block_size=4 if sampler.traits.gives_context else None)
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(5, (1000, 8), generator=generator)
    shares = torch.rand(1000, 1, generator=generator)  # from nothing given to everything
    given = torch.where(torch.rand(1000, 8, generator=generator) < shares, tokens, DRAWN)
    for steps in filter(sampler.traits.takes, (1, 3)):
        cond = Condition(prompt=given)
        out = sampler.sample(oracle, 1000, steps=steps, generator=SampleStreams(0, range(1000)), cond=cond).x
        assert torch.equal(out[given >= 0], given[given >= 0])
        assert int(out.min()) >= 0
        assert int(out.max()) < 5


def test_prompts_and_templates_reach_the_samples(train: Train, tmp_path: Path) -> None:
    build(tmp_path)
    sets = ["data={type: text, path: %s, length: 8}" % (tmp_path / "t.txt"), "train.steps=2", "train.batch_size=4"]
    run = str(train("text-teacher", "run", *sets, "backbone={type: transformer, width: 16, depth: 1, heads: 2}").path)
    sheet = sample_run(run, SampleRequest(3, steps=4, prompt="cd", batch_size=2, animate=True))
    lines = [json.loads(line) for line in (sheet.parent / "samples.jsonl").read_text().splitlines()]
    assert all(line["text"].startswith("cd") for line in lines)
    assert "\n\n".join(line["text"] for line in lines) + "\n" == sheet.read_text()
    page = (sheet.parent / "denoising.html").read_text()
    assert "http" not in page
    assert "src=" not in page

    sheet = sample_run(run, SampleRequest(5, steps=2, infill=file(tmp_path, "a*c\n**d"), blank="*"))
    tokens = load_file(sheet.parent / "samples.safetensors")["tokens"]
    texts = [json.loads(line)["text"] for line in (sheet.parent / "samples.jsonl").read_text().splitlines()]
    assert [text[0] + text[2] for text in texts[::2]] == ["ac"] * 3
    assert [text[2] for text in texts[1::2]] == ["d"] * 2
    assert json.loads((sheet.parent / "sample.json").read_text())["templates"]["count"] == 2

    given = torch.where(torch.arange(8) % 2 == 0, tokens[:2], DRAWN)
    sheet = sample_run(run, SampleRequest(4, steps=2, infill=file(tmp_path, given)))
    again = load_file(sheet.parent / "samples.safetensors")["tokens"]
    assert torch.equal(again[:, ::2], tokens[[0, 1, 0, 1], ::2])


# --------------------------------------------------------------------- what they mean


def test_a_prompt_stands_at_the_start(text: Dataset) -> None:
    rows = templates(SampleRequest(prompt="b a"), text)
    assert rows is not None
    assert text.symbols() == ["\n", " ", "a", "b", "c", "d"]
    assert rows.tolist() == [[3, 1, 2, -1, -1, -1, -1, -1]]
    assert templates(SampleRequest(), text) is None


def test_pieces_can_be_a_prompt(tmp_path: Path) -> None:
    data = build(tmp_path, "sentencepiece", "the cat sat on the mat\nthe dog sat\n" * 30)
    rows = templates(SampleRequest(prompt="the cat"), data)
    assert rows is not None
    known = rows[0][rows[0] >= 0]
    assert "".join(data.symbols()[i] for i in known) == " the cat"
    with pytest.raises(UserError, match=r"--prompt: character 'f' does not occur in .* \(line 1, column 5\)$"):
        templates(SampleRequest(prompt="the fox"), data)
    with pytest.raises(UserError, match="pieces have no fixed length, so text has no blanks; give a safetensors file"):
        templates(SampleRequest(infill=file(tmp_path, "the _")), data)


def test_lines_are_templates_in_turn(text: Dataset, tmp_path: Path) -> None:
    rows = templates(SampleRequest(infill=file(tmp_path, "a_c\n\n__d_____\n")), text)
    assert rows is not None
    assert rows.tolist() == [[2, -1, 4, -1, -1, -1, -1, -1], [-1, -1, 5, -1, -1, -1, -1, -1]]
    assert torch.equal(cycle_rows(rows, 5), rows[[0, 1, 0, 1, 0]])


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(prompt="abz"), "--prompt: character 'z' does not occur in the training text"),
        (SampleRequest(prompt="a" * 9), "--prompt: 9 tokens, but a sample has 8"),
        (SampleRequest(prompt="a", infill="x"), "--prompt and --infill both say which tokens are given; leave one out"),
        (SampleRequest(blank="?"), "--blank: says what a blank looks like in a file of templates; name one with --inf"),
        (SampleRequest(infill="none.txt"), r"--infill: 'none.txt' cannot be read \(No such file or directory\)"),
        (SampleRequest(infill="none.safetensors"), r"--infill: 'none.safetensors' cannot be read \("),
    ],
)
def test_requests_that_cannot_be(text: Dataset, request_: SampleRequest, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        templates(request_, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("ab_\nazb", "given.txt', line 2: character 'z' does not occur in the training text"),
        ("_" * 9, "given.txt', line 1: 9 tokens, but a sample has 8"),
        ("\n\n", "given.txt' is empty"),
        ("a\nb\nc", r"given.txt' has 3 templates; ask for as many samples or more \(-n\)"),
        (torch.zeros(2, 7, dtype=torch.long), r"'tokens' should have the shape \[N, 8\], not \[2, 7\]"),
        (torch.zeros(8, dtype=torch.long), r"'tokens' should have the shape \[N, 8\], not \[8\]"),
        (torch.zeros(0, 8, dtype=torch.long), r"'tokens' should have the shape \[N, 8\], not \[0, 8\]"),
        (torch.zeros(2, 8), "'tokens' should be whole numbers, not float32"),
        (torch.full((2, 8), 6), r"tokens\[0, 0\] is 6; tokens go from 0 to 5, and -1 is drawn"),
        (torch.full((2, 8), -2), r"tokens\[0, 0\] is -2; tokens go from 0 to 5, and -1 is drawn"),
    ],
)
def test_files_that_do_not_fit(text: Dataset, tmp_path: Path, content: str | Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        templates(SampleRequest(2, infill=file(tmp_path, content)), text)
    assert "\n" not in str(caught.value)


def test_other_files_that_do_not_fit(text: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds other, but no 'tokens'"):
        templates(SampleRequest(infill=file(tmp_path, torch.zeros(2, 8), "other")), text)
    with pytest.raises(UserError, match="--blank: expected one character, not '__'"):
        templates(SampleRequest(infill=file(tmp_path, "a"), blank="__"), text)
    coins = DATASETS.build("coins")
    for request in (SampleRequest(prompt="a"), SampleRequest(infill=file(tmp_path, "a"))):
        with pytest.raises(UserError, match="data 'coins' are no text; give tokens instead"):
            templates(request, coins)
