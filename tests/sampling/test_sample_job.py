"""Sampling jobs: kept batch by batch, continued after any end, shared by processes, shown, and given templates."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fewstep.core.errors import RecipeError, UserError
from fewstep.runs.folder import RunDir
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import Part, SampleRequest

Train = Callable[..., RunDir]
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
"""Audit events of everything that Python does to a folder, beside opening files to write."""


@pytest.fixture
def run(train: Train, monkeypatch: pytest.MonkeyPatch) -> str:
    """On the CPU, since a process that is forked from one that uses a GPU cannot."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return str(train("smoke-teacher", "run").path)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for the time that it took."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    about = json.loads(files["sample.json"])
    return {**files, "sample.json": json.dumps({**about, "seconds": 0}).encode()}


def forked(work: Callable[[], Any]) -> int:
    """Start a process that does `work`; returns its id."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return process


def ended(process: int) -> int:
    """Exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die_at(moment: int, folder: Path) -> None:
    """Kill this process just before it changes `folder` for the `moment`-th time."""
    left = [moment]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if (writes or event in CHANGES) and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


# --------------------------------------------------------------------- one folder, many lives


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_a_job_that_is_killed_goes_on_as_if_nothing_had_been(run: str, tmp_path: Path, stride: int) -> None:
    plain = SampleRequest(5, steps=2, batch_size=2, animate=True)
    sample_run(run, replace(plain, out=str(tmp_path / "whole")))
    whole, moment, kept = contents(tmp_path / "whole"), 0, set()
    assert set(whole) == {
        "denoising.html", "sample.json", "samples.jsonl", "samples.safetensors", "samples.txt",
    }  # fmt: skip
    while True:
        moment += stride
        folder = tmp_path / f"{moment}"
        request = replace(plain, out=str(folder))

        def work(request: SampleRequest = request, folder: Path = folder, moment: int = moment) -> None:
            die_at(moment, folder)
            sample_run(run, request)

        code = ended(forked(work))
        kept.add(len(list(folder.glob("unfinished/*.safetensors"))))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        sample_run(run, replace(request, resume=True))
        assert contents(folder) == whole, f"moment {moment}"
    assert moment > 25
    assert kept == {0, 1, 2, 3}


def test_two_processes_draw_what_one_draws(run: str, tmp_path: Path) -> None:
    whole, shared = (SampleRequest(11, steps=3, batch_size=2, out=str(tmp_path / name)) for name in ("a", "b"))
    sample_run(run, whole)
    processes = [forked(lambda i=i: sample_run(run, replace(shared, part=Part(i, 2)))) for i in (1, 2)]  # type: ignore[misc]
    assert [ended(process) for process in processes] == [0, 0]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_last_part_joins(run: str, tmp_path: Path) -> None:
    said: list[str] = []
    request = SampleRequest(7, steps=2, batch_size=1, out=str(tmp_path / "x"))
    for index in (3, 1):
        assert sample_run(run, replace(request, part=Part(index, 3)), say=said.append) == tmp_path / "x"
    assert said[0] == f"part 3/3 is done in {tmp_path / 'x'}; 5 of 7 samples are missing, and the last part joins all"
    with pytest.raises(UserError, match=r"holds this job unfinished, with 5 of 7 samples; continue it with --resume"):
        sample_run(run, replace(request, part=Part(1, 3)))
    sample_run(run, replace(request, resume=True), say=said.append)  # in the place of the part that is missing
    assert said[-1] == f"wrote {tmp_path / 'x' / 'samples.txt'}"
    lines = (tmp_path / "x/samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(7))


def test_samples_are_the_same_in_batches_of_any_size(run: str, tmp_path: Path) -> None:
    found = []
    for size in (1, 3, 8, None):
        sample_run(run, SampleRequest(8, steps=2, batch_size=size, out=str(tmp_path / f"{size}")))
        found.append((tmp_path / f"{size}/samples.jsonl").read_bytes())
    assert len(set(found)) == 1
    tokens = load_file(tmp_path / "1/samples.safetensors")["tokens"].tolist()
    assert [json.loads(line)["tokens"] for line in found[0].splitlines()] == tokens


def test_what_is_there_already(run: str, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "x"
    request = SampleRequest(4, steps=2, batch_size=2, out=str(folder))
    sample_run(run, request, say=said.append)
    before = contents(folder)
    sample_run(run, request, say=said.append)
    assert said[-1] == f"found {folder / 'samples.txt'}, drawn before with these settings"
    sample_run(run, replace(request, animate=True))
    assert contents(folder).keys() - before.keys() == {"denoising.html"}
    sample_run(run, replace(request, seed=1))  # a finished job makes way for another
    assert contents(folder).keys() == before.keys()
    assert contents(folder) != before
    assert ended(forked(lambda: (die_at(12, folder), sample_run(run, request)))) == -signal.SIGKILL
    with pytest.raises(UserError, match=r"holds this job unfinished, with \d of 4 samples; continue it with --resume"):
        sample_run(run, request)
    wrong = r"unfinished job with other settings \(sampler.temperature: 1.0 there, 0.5 here; steps: 2 there, 3 here\)"
    for resume in (False, True):
        with pytest.raises(UserError, match=wrong + "; name another folder with --out"):
            sample_run(run, replace(request, steps=3, temperature=0.5, resume=resume))
    sample_run(run, replace(request, resume=True))
    assert contents(folder) == before


def test_other_weights_are_another_job(train: Train, tmp_path: Path) -> None:
    request = SampleRequest(4, steps=2, batch_size=1, out=str(tmp_path / "x"), part=Part(1, 2))
    sample_run(str(train("smoke-teacher", "one").path), request)
    with pytest.raises(UserError, match=r"other settings .*weights_digest"):
        sample_run(str(train("smoke-teacher", "two", "seed=1").path), replace(request, part=Part(2, 2)))


def test_everything_that_decides_the_samples_is_recorded(run: str, tmp_path: Path) -> None:
    given = "{type: cached_ancestral, greedy_tail: 1}"
    sample_run(run, SampleRequest(9, steps=6, seed=2, sampler=given, top_p=0.9, batch_size=4, out=str(tmp_path / "x")))
    about = json.loads((tmp_path / "x/sample.json").read_text())
    config = about.pop("sampler")
    assert (config["type"], config["greedy_tail"], config["top_p"]) == ("cached_ancestral", 1, 0.9)
    known = {"run": run, "step": 20, "weights": "ema", "samples": 9, "steps": 6, "seed": 2, "templates": None}
    assert known.items() <= about.items()
    assert {"weights_digest", "data_digest", "fewstep", "commit", "seconds", "device", "batch_size"} <= about.keys()
    assert 1 <= about["nfe"] < 6


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(sampler="cached"), "--sampler:1: sampler: no sampler named 'cached'; did you mean"),
        (SampleRequest(sampler="{type: ancestral, topp: 1}"), "sampler.topp: unknown key 'topp'; did you mean 'top_p'"),
        (
            SampleRequest(sampler="block_ancestral"),
            "backbone 'transformer' has no blocks; samplers for it: analytic, ancestral",
        ),
        (SampleRequest(temperature=-1.0), "--temperature: sampler.temperature: should be greater than 0, not -1"),
    ],
)
def test_samplers_are_checked_like_a_recipe(run: str, request_: SampleRequest, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        sample_run(run, request_)
    assert said in str(caught.value)


def test_a_device_that_is_not_here(run: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--device: is cuda, but torch finds no GPU here; use 'auto' or 'cpu'$"):
        sample_run(run, SampleRequest(device="cuda", out=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


def test_samplers_must_fit_the_process(train: Train) -> None:
    run = train("smoke-teacher", "uniform", "process=uniform")
    with pytest.raises(RecipeError, match="'cached_ancestral' fills in masks, and the uniform process has none"):
        sample_run(str(run.path), SampleRequest(sampler="cached_ancestral"))


def test_parts() -> None:
    assert Part.parse("2/3") == Part(2, 3)
    assert Part.parse(None, {}) == Part(1, 1)
    assert Part.parse(None, {"RANK": "0", "WORLD_SIZE": "4"}) == Part(1, 4)
    for wrong in ("0/2", "3/2", "1", "a/b", "1/2/3"):
        with pytest.raises(UserError, match=f"expected I/N with I from 1 to N, such as 1/4, not '{wrong}'"):
            Part.parse(wrong)


def test_labels_stand_in_lines_and_tensors(train: Train, tmp_path: Path) -> None:
    run = train("digits-labelled-teacher", "digits", "train.steps=2", "train.batch_size=8", "backbone.width=16")
    sheet = sample_run(str(run.path), SampleRequest(12, steps=2, label="all", animate=True, out=str(tmp_path / "x")))
    assert sheet.name == "samples.png"
    lines = [json.loads(line) for line in (tmp_path / "x/samples.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [*range(10), 0, 1]
    labels = load_file(tmp_path / "x/samples.safetensors")["labels"]
    assert torch.equal(labels, torch.arange(12) % 10)

    from PIL import Image

    with Image.open(tmp_path / "x/denoising.gif") as picture:
        assert picture.n_frames == 3  # noise and two steps
        durations = []
        for frame in range(3):
            picture.seek(frame)
            durations.append(picture.info["duration"])
    assert durations[0] == durations[1] < durations[2]
