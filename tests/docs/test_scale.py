"""The files of docs/scale do here, in their local form, what they do on a cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from several_ranks import free_port

from fewstep.core.version import __version__
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "docs/scale"


def manifest() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FILES / "pytorchjob.yaml").read_text())
    return content


def container() -> dict[str, Any]:
    worker = manifest()["spec"]["pytorchReplicaSpecs"]["Worker"]
    (only,) = worker["template"]["spec"]["containers"]
    return dict(only)


def test_the_image_has_what_the_wheel_needs() -> None:
    lines = [line.split() for line in (FILES / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    sources = {source for line in lines for source in line[1:-1]}
    assert all((ROOT / source).exists() for source in sources)
    assert {"framework", "recipes", "benchmarks/suites", "pyproject.toml", "README.md", "LICENSE"} <= sources


def test_the_image_has_the_tested_versions_of_the_package() -> None:
    text = (FILES / "Dockerfile").read_text()
    (needed,) = re.findall(r'^requires-python = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"fewstep:{__version__} " in text
    (python,) = re.findall(r"^FROM python:(3\.\d+)-slim$", text, re.M)
    assert SpecifierSet(needed).contains(python)
    (install,) = re.findall(r"^RUN pip install (.*?) &&", text, re.M)
    assert "-c /src/constraints.txt /src" in install
    assert "constraints.txt" in next(line for line in text.splitlines() if line.startswith("COPY pyproject.toml"))
    assert f"fewstep:{__version__}" in (ROOT / "docs" / "scale.md").read_text()


def test_the_manifest_starts_a_shipped_recipe_on_the_image() -> None:
    command = container()["command"]
    assert command[0] == "torchrun"
    load_recipe(command[command.index("train") + 1])
    assert container()["image"] in (FILES / "Dockerfile").read_text()


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, str]:
    """An environment of one machine, with stand-ins for what a cluster has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "srun": 'exec "$@"',
        "scontrol": f'case $1 in show) echo 127.0.0.1;; requeue) echo "$2" >> {tmp_path}/requeued;; esac',
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "one"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **slurm, "PATH": path, "RANKS": "2", "PORT": str(free_port()), "OMP_NUM_THREADS": "1"}


def recipe(folder: Path, steps: int) -> Path:
    raw = {
        "name": "scale",
        "data": {"type": "markov", "vocab_size": 5, "length": 6, "size": 64},
        "process": "masked",
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
        "objective": "denoising",
        "train": {"steps": steps, "batch_size": 12, "device": "cpu", "log_every": 1, "checkpoint_every": 1_000_000},
    }
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def family(pid: int) -> list[int]:
    """The process and all that it has started."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(one for child in file.read_text().split() for one in family(int(child)))]


@pytest.mark.slow
def test_the_slurm_job_saves_before_its_end_and_goes_on(tmp_path: Path, commands: dict[str, str]) -> None:
    run = tmp_path / "run"
    arguments = ["bash", str(FILES / "train.slurm"), str(recipe(tmp_path, 1_000_000)), str(run)]
    job = subprocess.Popen(arguments, env=commands)
    while not RunDir(run).log_lines():
        assert job.poll() is None
        time.sleep(0.1)
    for pid in family(job.pid)[1:]:  # as Slurm signals a step: torchrun and its ranks, and not the script
        os.kill(pid, signal.SIGUSR1)
    assert job.wait(120) == 0
    assert RunDir(run).status["state"] == "stopped"
    assert (tmp_path / "requeued").read_text() == "7\n"
    step = int(str(RunDir(run).status["step"]))
    recipe(tmp_path, step + 3)
    assert subprocess.run(arguments, env=commands, check=False).returncode == 0
    assert RunDir(run).status["state"] == "finished"
    assert [line["step"] for line in RunDir(run).log_lines()] == list(range(1, step + 4))


@pytest.mark.slow
def test_the_pod_of_the_manifest_trains(tmp_path: Path, commands: dict[str, str]) -> None:
    variables = {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "2", "PET_RDZV_BACKEND": "c10d", "PET_MAX_RESTARTS": "3"}
    variables["PET_RDZV_ENDPOINT"] = f"127.0.0.1:{free_port()}"
    command = [str(recipe(tmp_path, 3)) if word == "digits-teacher" else word for word in container()["command"]]
    subprocess.run(command, env={**commands, **variables}, cwd=tmp_path, check=True)
    assert RunDir(tmp_path / "runs/digits").status["state"] == "finished"
