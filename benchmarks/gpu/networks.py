"""Untrained networks, and trainers of an objective on random tokens: what all parts measure.

Shapes: L tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from cases import Missing
from flops import Shape

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.data.base import DATASETS
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES
from fewstep.processes.base import PROCESSES, Process
from fewstep.recipe.models import TrainerSettings
from fewstep.runs.folder import RunDir
from fewstep.runtime.compiling import TrainCompileMode
from fewstep.training.assemble import Parts
from fewstep.training.trainer import Trainer

WORK: dict[str, tuple[str, dict[str, Any]]] = {
    "denoising": ("masked", {"type": "denoising"}),
    "dmmd": ("masked", {"type": "dmmd", "k": 8}),
    "dmmd simultaneous": ("masked", {"type": "dmmd", "k": 8, "updates": "simultaneous"}),
    "sdtt": ("masked", {"type": "sdtt"}),
    "consistency": ("uniform", {"type": "consistency", "times": "gaussian"}),
}
"""Process and objective of each kind of training. Consistency on the uniform process is Duo's DCD."""

MODES = ("off", "trunk", "step")
"""Modes of compilation that are measured, if this version has them."""


def check_mode(mode: str) -> None:
    """Raises Missing if this version has no such mode of compilation."""
    if mode not in get_args(TrainCompileMode):
        raise Missing(f"this version has no `train.compile: {mode}`")


def process_of(name: str, vocab: int) -> Process:
    """A process with the schedule of papers on text."""
    options = {"schedule": "log_linear"} if name == "masked" else {}
    return PROCESSES.build({"type": name, **options}, vocab_size=vocab)


def network(
    shape: Shape, process: Process, length: int, device: torch.device, attention: str = "auto"
) -> NetworkDenoiser:
    """A denoiser with random weights, also where they are initialised to zero, which would hide what comes before."""
    config = {**shape.config, "attention": attention, "time_conditioned": not process.carry_over}
    tokens = TokenSpace(process.num_states, process.vocab_size, length)
    torch.manual_seed(0)
    with device:
        denoiser = NetworkDenoiser(BACKBONES.build(config, tokens=tokens), process)
    shake(denoiser, 0)
    return denoiser


def shake(module: torch.nn.Module, seed: int) -> None:
    """Add noise of standard deviation 0.02 to all parameters."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            generator = torch.Generator(parameter.device).manual_seed(1000 * seed + number)
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.add_(noise, alpha=0.02)


def trainer(
    work: str,
    student: NetworkDenoiser,
    *,
    batch: int,
    folder: Path,
    device: torch.device,
    precision: str,
    compile: str = "off",
    rows: int = 256,
    echo: Callable[[str], None] = lambda line: None,
) -> Trainer:
    """A trainer of random tokens that is ready for its first step; roles differ from each other.

    Its run folder is a new one below `folder`, which nothing is written into before a checkpoint.
    """
    objective = OBJECTIVES.build(WORK[work][1])
    roles = {"student": student}
    for number, name in enumerate(objective.roles, 1):
        if name != "student":
            roles[name] = copy.deepcopy(student)
            shake(roles[name], number)
    spec = {"vocab_size": student.process.vocab_size, "length": student.length, "random": rows}
    data = DATASETS.build({"type": "token_ids", **spec})
    many = 1_000_000
    train = {"steps": many, "batch_size": batch, "log_every": many, "precision": precision, "compile": compile}
    settings = TrainerSettings(
        train={**train, "device": device.type},  # type: ignore[arg-type]
        optim={"lr": 1e-5},  # type: ignore[arg-type]
        watch={"times": 0},  # type: ignore[arg-type]
    )
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDir.create("gpu", tempfile.mkdtemp(dir=folder))
    training = Trainer(Parts(data, student.process, objective, roles), settings, run, echo=echo)
    training.objective.setup(training.ctx)
    return training
