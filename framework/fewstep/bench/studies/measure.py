"""Seconds that a study's trainings and samples take on this machine, by a few steps of each."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.bench.studies.files import Design, write_files
from fewstep.data.base import Dataset, Preparable
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, build_dataset, open_model
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw
from fewstep.training.launch import fit

_STEPS = 5
"""Steps of a training that are measured; the first are slower, and do not count."""
_WARM = 2
_DRAWN, _DRAWN_STEPS = 64, 2


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine.

    Args:
        steps: of an optimiser step, by recipe.
        evaluation: of one network evaluation in sampling, for one sample.
        parameters: weights of a network.
        vocab: symbols of the data.
        length: tokens of a sample.
        held_out: held-out samples.
        share: of the processor's time that the measurement had; low where other programs ran.
    """

    steps: dict[str, float]
    evaluation: float
    parameters: int
    vocab: int
    length: int
    samples: int
    held_out: int
    share: float = 1.0


def measure(design: Design, folder: Path) -> Speed:
    """Train each recipe for a few steps, and draw a few samples.

    Args:
        design: the study; its trainings are shortened here.
        folder: empty folder for recipes and runs.

    Raises:
        UserError: the data cannot be read.
    """
    write_files(design.recipes(), folder)
    runs: dict[str, RunDir] = {}
    dataset: Dataset | None = None
    seconds = {}
    before = time.perf_counter(), time.process_time()
    for name in design.trained:
        sets = [f"train.steps={_STEPS}", "train.log_every=1", "watch.times=0", "optim.warmup_steps=0"]
        teacher = str(runs["teacher"].path) if name == "student" else None
        loaded = load_recipe(folder / f"{name}.yaml", sets, teacher=teacher)
        if dataset is None:
            if isinstance(loaded.recipe.data, Preparable):
                loaded.recipe.data.prepare()
            dataset = build_dataset(loaded.recipe)
        runs[name] = RunDir.create(name, folder / "runs" / name)
        fit(loaded, runs[name], dataset=dataset, echo=_nowhere)
        seconds[name] = seconds_a_step(runs[name])
    assert dataset is not None
    model = open_model(runs["student"].path, device="auto", dataset=dataset)
    sampler = build_component(SAMPLERS, model.recipe.sampler)
    parameters = sum(weight.numel() for weight in model.denoiser.parameters())
    times = []
    for seed in range(2):
        begun = time.perf_counter()
        draw(sampler, model.denoiser, _DRAWN, steps=_DRAWN_STEPS, seed=seed, batch_size=_DRAWN)
        times.append((time.perf_counter() - begun) / _DRAWN_STEPS / _DRAWN)
    spec, held_out = dataset.spec, dataset.held_out
    on_cpu = model.denoiser.device.type == "cpu"
    share = (time.process_time() - before[1]) / (time.perf_counter() - before[0]) if on_cpu else 1.0
    return Speed(
        seconds,
        min(times),
        parameters,
        spec.vocab_size,
        spec.length,
        len(dataset),
        0 if held_out is None else len(held_out),
        share / torch.get_num_threads() if on_cpu else share,
    )


def seconds_a_step(run: RunDir) -> float:
    """Median over the steps of a run that logs each, but for the first ones."""
    times = [line["seconds"] for line in run.log_lines()]
    return statistics.median(b - a for a, b in zip(times[_WARM - 1 :], times[_WARM:], strict=False))


def _nowhere(line: str) -> None:
    pass
