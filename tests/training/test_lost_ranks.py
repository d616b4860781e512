"""A rank that is lost ends all ranks with a sentence, and costs nothing that was saved."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from several_ranks import outputs, start_ranks

from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import step_of
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

RECIPE: dict[str, Any] = {
    "name": "lost",
    "data": {"type": "markov", "vocab_size": 5, "length": 6, "size": 64},
    "process": "masked",
    "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
    "objective": "denoising",
    "train": {"steps": 1_000_000, "batch_size": 12, "device": "cpu", "log_every": 1, "checkpoint_every": 5},
}


def written(folder: Path, **parallel: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "parallel": parallel}))
    return path


def begin(recipe: Path, run: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    """Ranks that have saved a checkpoint."""
    command = ["-m", "fewstep", "train", str(recipe), "--run-dir", str(run)]
    processes = start_ranks([command] * size, run.parent)
    wait_for(lambda: RunDir(run).last_checkpoint() is not None, processes)
    return processes


def wait_for(condition: Callable[[], bool], processes: list[subprocess.Popen[str]], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, [process.poll() for process in processes]
        time.sleep(0.05)


def alone(recipe: Path, run: Path, steps: int) -> list[dict[str, float]]:
    """Lines of a training that one process begins or continues up to a step."""
    loaded = load_recipe(str(recipe), [f"train.steps={steps}"])
    fit(loaded, RunDir(run), echo=lambda line: None)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_rank_ends_the_other_and_one_process_goes_on(tmp_path: Path) -> None:
    recipe, run = written(tmp_path), tmp_path / "run"
    processes = begin(recipe, run)
    processes[1].kill()
    (code, text), _ = outputs(processes)
    assert code == 1
    assert "error: another rank has ended; the lines of that rank say why" in text
    assert "Traceback" not in text
    assert RunDir(run).status["state"] == "failed"
    last = RunDir(run).last_checkpoint()
    assert last is not None
    steps = step_of(last) + 5
    ours, undisturbed = alone(recipe, run, steps), alone(recipe, tmp_path / "alone", steps)
    assert [line["step"] for line in ours] == list(range(1, steps + 1))
    for line, base in zip(ours, undisturbed, strict=True):
        assert line["train/loss"] == pytest.approx(base["train/loss"], rel=1e-5)
        assert line["evaluations"] == base["evaluations"]


@pytest.mark.slow
def test_a_rank_that_hangs_counts_as_lost_within_the_timeout(tmp_path: Path) -> None:
    processes = begin(written(tmp_path, timeout_minutes=0.1), tmp_path / "run")
    os.kill(processes[1].pid, signal.SIGSTOP)
    begun = time.monotonic()
    text = processes[0].communicate(timeout=60)[0]
    assert time.monotonic() - begun < 20
    assert processes[0].returncode == 1
    assert "error: another rank did not answer within parallel.timeout_minutes" in text
    processes[1].kill()
    outputs(processes[1:])


@pytest.mark.slow
def test_one_rank_that_is_asked_to_end_ends_all_with_a_checkpoint(tmp_path: Path) -> None:
    processes = begin(written(tmp_path), tmp_path / "run")
    processes[1].send_signal(signal.SIGUSR1)
    (code, text), (other, _) = outputs(processes)
    assert (code, other) == (0, 0)
    assert "continue with --resume" in text
    assert RunDir(tmp_path / "run").status["state"] == "stopped"


@pytest.mark.slow
def test_ranks_with_other_recipes_are_told_by_rank(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    commands = [["-m", "fewstep", "train", str(recipe), *extra] for extra in ([], ["--set", "optim.lr=0.5"])]
    results = outputs(start_ranks(commands, tmp_path))
    for code, text in results:
        assert code == 2
        assert "differs from rank 0" in text
        assert "recipe: optim.lr: 0.5 there" in text
    assert results[1][1].startswith("rank 1: error: ")
    assert not (tmp_path / "runs").exists()


def torchrun(recipe: Path, run: Path, steps: int, restarts: int) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    command = ["-m", "fewstep", "train", str(recipe), "--run-dir", str(run), "--set", f"train.steps={steps}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, *launcher, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children(process: subprocess.Popen[str]) -> list[int]:
    file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


@pytest.mark.slow
def test_torchrun_restarts_after_kills_at_random_moments(tmp_path: Path) -> None:
    """20 kills; the end has the weights of an undisturbed training, whatever was lost in between."""
    recipe, draw, kills, steps = written(tmp_path), random.Random(0), 20, 600
    undisturbed = torchrun(recipe, tmp_path / "whole", steps, 0)
    assert undisturbed.wait(900) == 0, undisturbed.communicate()[0]
    process, done = torchrun(recipe, tmp_path / "run", steps, kills + 2), 0
    log = (tmp_path / "output.txt").open("w")
    assert process.stdout is not None
    while done < kills and process.poll() is None:
        time.sleep(draw.uniform(1, 25))
        ranks = children(process)
        if ranks and process.poll() is None:
            os.kill(draw.choice(ranks), signal.SIGKILL)
            done += 1
    text = process.communicate(timeout=900)[0]
    log.write(text)
    assert process.returncode == 0, text[-3000:]
    ours, theirs = (load_file(tmp_path / name / "export" / "student_ema.safetensors") for name in ("run", "whole"))
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, rtol=1e-6, atol=1e-7)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == steps
