"""A training on several ranks is that of one: losses, gradient norms, weights, averages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from several_ranks import outputs, start_ranks

SCRIPT = str(Path(__file__).resolve().parents[1] / "train_recipes.py")
PLUGIN = '''
from typing import Literal

from fewstep import OBJECTIVES, ComponentConfig, LossOutput, Objective


@OBJECTIVES.register("plain_nll")
class PlainNll(Objective):
    """Cross entropy at the noised tokens alone, written without a thought of ranks."""

    class Config(ComponentConfig):
        type: Literal["plain_nll"] = "plain_nll"

    def loss(self, phase, batch, ctx):
        t = ctx.sample_time(batch.size)
        noised = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
        prediction = ctx.roles["student"](noised.x_t, t, cond=batch.cond)
        return LossOutput(ctx.mean(prediction.nll(batch.x0), noised.noised))
'''

OBJECTIVES: dict[str, dict[str, Any]] = {
    "denoising": {"type": "denoising"},
    "uniform": {"type": "denoising", "loss": "bound"},
    "dmmd": {"type": "dmmd", "k": 2},
    "dmmd_together": {"type": "dmmd", "k": 2, "updates": "simultaneous"},
    "sdtt": {"type": "sdtt", "rounds": 2, "first_step": 0.25},
    "consistency": {"type": "consistency", "rounds": 2, "first_step": 0.25},
    "consistency_average": {"type": "consistency", "rounds": 2, "first_step": 0.25, "teacher_decay": 0.9},
    "rectified": {"type": "rectified", "pairs": 96, "teacher_steps": 2},
    "di4c": {"type": "di4c", "latents": 3},
    "didi": {"type": "didi", "group": 2, "head_start": 0.2},
    "dimo": {"type": "dimo"},
    "vq": {"type": "vq"},
    "plugin": {"type": "plain_nll"},
}
UNIFORM = {"uniform", "rectified", "teacher_uniform"}
ADAPTERS = {"dmmd", "dmmd_together", "rectified", "di4c", "didi", "dimo"}
WITHOUT_TEACHER = {"denoising", "uniform", "vq", "plugin", "teacher", "teacher_uniform"}


def recipe(name: str, steps: int, folder: Path, strategy: str = "auto") -> dict[str, Any]:
    uniform = "uniform" if name in UNIFORM else "masked"
    raw: dict[str, Any] = {
        "name": name.replace("_", "-"),
        "data": {"type": "markov", "vocab_size": 5, "length": 6, "size": 64},
        "process": uniform,
        "backbone": {"type": "transformer", "width": 16, "depth": 2, "heads": 2},
        "objective": OBJECTIVES.get(name, {"type": "denoising"}),
        "train": {"steps": steps, "batch_size": 12, "device": "cpu", "log_every": 1, "checkpoint_every": 1000},
        "parallel": {"strategy": strategy},
        "optim": {"lr": 1e-3, "clip": 0.5},
        "watch": {"times": 2, "samples": 8},
    }
    if name == "vq":
        raw["data"], raw["backbone"] = "digits", {"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": 8}
        raw["backbone"]["code_width"] = 4
    if name in ADAPTERS:
        raw["noise_input"] = {"type": "gaussian", "channels": 4}
    if name == "dimo":
        raw["sampler"] = "one_step"
        raw["evaluate"] = {"steps": [1]}
    if name == "rectified":
        raw["sampler"] = "flow"
    if name == "plugin":
        raw["plugins"] = [str(folder / "plain_nll.py")]
    if name not in WITHOUT_TEACHER and not name.startswith("teacher"):
        raw["teacher"] = {"run": str(folder / f"teacher-{uniform}")}
    return raw


class Trained:
    """Runs of one number of ranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plain_nll.py").write_text(PLUGIN)

    def train(self, ranks: int, recipes: dict[str, dict[str, Any]]) -> None:
        jobs = self.folder / f"jobs-{ranks}-{next(iter(recipes))}.json"
        jobs.write_text(json.dumps([(raw, str(self.folder / name)) for name, raw in recipes.items()]))
        if ranks == 1:
            command = [sys.executable, SCRIPT, str(jobs)]
            processes = [subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True)]
        else:
            processes = start_ranks([[SCRIPT, str(jobs)]] * ranks, self.folder)
        results = outputs(processes, 1800)
        assert not any(code for code, _ in results), "\n".join(text for _, text in results)

    def curve(self, name: str) -> list[dict[str, float]]:
        lines = (self.folder / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def assert_same(self, name: str, other: str, rtol: float = 1e-5) -> None:
        """The same losses, gradient norms and counts at every step, and the same average at the end."""
        ours, theirs = self.curve(name), self.curve(other)
        assert len(ours) == len(theirs) > 0
        for line, base in zip(ours, theirs, strict=True):
            for key, value in base.items():
                if key.endswith(("/loss", "/grad_norm", "/lr", "/diversity", "step")) or key == "evaluations":
                    # A loss of terms of both signs may be near zero, and its rounding is that of its terms. A norm is
                    # that of the gradient alone, whose rounding the divisions of a method amplify.
                    bound = 10 * rtol if key.endswith("grad_norm") else rtol
                    terms = 1e-5 if name.startswith("didi") else 1e-6  # its terms are divided by a deviation of rewards
                    assert line[key] == pytest.approx(value, rel=bound, abs=terms), (name, base["step"], key)
        files = (self.folder / run / "export" / "student_ema.safetensors" for run in (name, other))
        weights, expected = map(load_file, files)
        for key, weight in expected.items():
            torch.testing.assert_close(weights[key], weight, rtol=1e-4, atol=1e-5)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    return Trained(tmp_path)


def compare(trained: Trained, names: list[str], sizes: tuple[int, ...], steps: int, strategy: str = "auto") -> None:
    teachers = {f"teacher-{kind}": recipe(f"teacher_{kind}", 4, trained.folder) for kind in ("masked", "uniform")}
    for size in (1, *sizes):
        recipes = {f"{name}-{size}": recipe(name, steps, trained.folder, strategy) for name in names}
        trained.train(size, teachers | recipes if size == 1 else recipes)
    for name in names:
        for size in sizes:
            trained.assert_same(f"{name}-{size}", f"{name}-1")


def test_two_ranks_train_as_one(trained: Trained) -> None:
    compare(trained, ["dmmd", "consistency", "plugin"], (2,), 6)


@pytest.mark.slow
def test_any_number_of_ranks_trains_every_objective_as_one(trained: Trained) -> None:
    compare(trained, list(OBJECTIVES), (2, 3), 50)


@pytest.mark.slow
def test_sharded_networks_train_every_objective_as_one(trained: Trained) -> None:
    compare(trained, [name for name in OBJECTIVES if name != "vq"], (2, 3), 50, "fsdp")
