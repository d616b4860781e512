"""Part 5: teachers and D-MMD students from the shipped recipes, on real data, and their distance to it by NFE.

The time that is left is shared evenly among the trainings that are still to come, with at most two minutes for each.
Its steps are what a first stretch of a few seconds says will fit.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from cases import Case, Missing, Outcome, Setting
from measuring import synchronise
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import image_data
from fewstep.metrics.images.feature_frechet import frechet_distance
from fewstep.metrics.images.features import classifier_for
from fewstep.metrics.reference import real_samples
from fewstep.metrics.text.ngram_novelty import novelty
from fewstep.metrics.text.ngrams import ngram_numbers
from fewstep.recipe import LoadedRecipe, load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, build_dataset, open_model
from fewstep.samplers.base import SAMPLERS
from fewstep.sampling.draw import draw
from fewstep.sampling.sheets import save_sheet
from fewstep.training.launch import fit
from fewstep.training.trainer import Trainer

NFE = (1, 2, 4, 8, 16, 32)
LONGEST = 120.0
"""Seconds of a training."""
SCORING = 8.0
"""Seconds that drawing and scoring may take after each."""
N = 4
"""Tokens of the n-grams of texts that are compared."""

Score: TypeAlias = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """Data with a teacher's and a student's recipe.

    Args:
        file: below the folder of data; the task is left out without it.
        sets: changes to both recipes, for a GPU and for the short form.
        score: from the data to a function of samples, whose first value is the one to compare.
    """

    file: str
    recipes: tuple[str, str]
    sets: tuple[str, ...]
    short: tuple[str, ...]
    score: Callable[[Dataset, torch.device], Score]


@dataclass(frozen=True)
class Plan:
    """A recipe with its changes, and the run of its teacher."""

    recipe: str
    sets: tuple[str, ...]
    teacher: str | None

    def load(self, *sets: str) -> LoadedRecipe:
        """The recipe, with further changes."""
        return load_recipe(self.recipe, [*self.sets, *sets], teacher=self.teacher)


def cases(setting: Setting) -> Iterator[Case]:
    """A teacher and its student on each kind of data."""
    names = [(name, student) for name in TASKS for student in (False, True)]
    shared: dict[str, tuple[Dataset, Score]] = {}
    for number, (name, student) in enumerate(names):
        run = partial(evidence, setting, name, student, len(names) - number, shared)
        yield Case(f"{name}, {'student' if student else 'teacher'}", 2 if setting.short else 25, run)


def evidence(
    setting: Setting, name: str, student: bool, trainings: int, shared: dict[str, tuple[Dataset, Score]]
) -> Outcome:
    """Train a model and score its samples at each NFE.

    Args:
        trainings: number of trainings that share the time, with this one.
        shared: data and score of each task, made by its first case that runs.
    """
    task, teacher = TASKS[name], setting.work / f"{name.lower()}-teacher"
    sets = [*task.sets, *(task.short if setting.short else ()), f"data.path={_place(setting, task.file)}"]
    sets += [f"train.device={setting.device.type}", "watch.times=0"]
    if student and not (teacher / "export").exists():
        raise Missing("its teacher is not in the folder of runs; delete the teacher's entry to train it again")
    plan = Plan(task.recipes[student], tuple(sets), str(teacher) if student else None)
    if name not in shared:
        dataset = build_dataset(plan.load().recipe)
        shared[name] = dataset, task.score(dataset, setting.device)
    dataset, score = shared[name]
    longest = 1.0 if setting.short else LONGEST
    budget = min(longest, max(1.0, setting.left() / trainings - SCORING))
    folder = _new(setting.work / f"{name.lower()}-{'student' if student else 'teacher'}")
    steps, taken = _train(setting, plan, folder, dataset, budget)
    rows = _scored(setting, folder, dataset, score)
    real = score(real_samples(dataset, _count(setting)))
    first = next(iter(real))
    text = f"{first} by NFE " + ", ".join(f"{nfe}: {values[first]:.3g}" for nfe, values in rows.items())
    text += f"; real samples {real[first]:.3g}; {steps:,} steps in {taken:.0f} s"
    text += f" ({longest:.0f} s did not fit)" if budget < longest else ""
    return Outcome(text, {"by_nfe": rows, "real": real, "steps": steps, "training_seconds": taken})


def _place(setting: Setting, file: str) -> Path:
    """What `data.path` is to name: the file, or the folder of the task's data for a file in it.

    Raises:
        Missing: it is not there.
    """
    if setting.data is None or not (setting.data / file).exists():
        where = f"in '{setting.data}'" if setting.data else "in the places that are searched"
        raise Missing(f"no {file} {where}; name the folder that holds it by --data")
    path = setting.data / file
    return path.parent if path.suffix == ".gz" else path


def _new(path: Path) -> RunDir:
    """An empty run folder; one of an earlier try is moved aside."""
    if path.exists():
        path.rename(path.with_name(f"{path.name}-{time.time_ns()}"))
    return RunDir.create(path.name, path)


def _pace(steps: int) -> list[str]:
    """Warm-up and average of a training of so few steps, and no checkpoint before its end."""
    decay = min(0.999, max(0.9, 1 - 10 / steps))
    return [
        f"train.steps={steps}",
        f"train.checkpoint_every={steps}",
        f"optim.warmup_steps={min(200, steps // 10)}",
        f"ema.decay={decay:.4f}",
    ]


def _train(setting: Setting, plan: Plan, folder: RunDir, dataset: Dataset, budget: float) -> tuple[int, float]:
    """Train for about `budget` seconds; returns the steps and the seconds that they took."""
    begin = time.monotonic()
    a_step = _seconds_of_a_step(setting, plan, dataset, 0.05 * budget)
    steps = max(20, int((budget - (time.monotonic() - begin)) / a_step))
    begin = time.monotonic()
    fit(plan.load(*_pace(steps)), folder, dataset=dataset, echo=lambda line: None)
    return steps, time.monotonic() - begin


def _seconds_of_a_step(setting: Setting, plan: Plan, dataset: Dataset, stretch: float) -> float:
    """Time of a step, measured for a stretch of seconds after ten steps."""
    recipe = plan.load("train.steps=1000000", "train.log_every=1000000").recipe
    training = Trainer.from_recipe(recipe, _new(setting.work / "pace"), dataset=dataset, echo=lambda line: None)
    training.objective.setup(training.ctx)
    count, begin = -10, time.monotonic()
    while count <= 0 or time.monotonic() - begin < stretch:
        begin = time.monotonic() if count == 0 else begin
        for _ in range(10):
            training._step()
        synchronise(setting.device)
        count += 10
    training.loader.close()
    return (time.monotonic() - begin) / count


def _count(setting: Setting) -> int:
    """Number of samples that are scored."""
    return 16 if setting.short else 1000


def _scored(setting: Setting, run: RunDir, dataset: Dataset, score: Score) -> dict[str, dict[str, float]]:
    """Values by NFE. A sheet of the first samples of each goes to the results."""
    model, count = open_model(run.path, dataset=dataset), _count(setting)
    sampler, rows, shown = build_component(SAMPLERS, model.recipe.sampler), {}, []
    precision = "bf16" if setting.device.type == "cuda" else "fp32"
    for steps in NFE:
        size = min(count, 250)
        tokens = draw(sampler, model.denoiser, count, steps=steps, seed=0, batch_size=size, precision=precision).tokens
        rows[str(steps)] = score(tokens)
        shown.append(tokens[: min(count, 20) if dataset.kind == "image" else 2])
    save_sheet(setting.out / run.path.name, dataset, torch.cat(shown), columns=len(shown[0]))
    return rows


def _frechet(dataset: Dataset, device: torch.device) -> Score:
    """The metric `feature_frechet`, with its classifier on the device: on a CPU it takes minutes at this size."""
    images, classifier = image_data(dataset), classifier_for(dataset, device)
    real = classifier.features(images.originals(slice(None)))

    def score(samples: Tensor) -> dict[str, float]:
        features = classifier.features(images.to_images(samples.cpu()))
        return {"feature_frechet": frechet_distance(features, real)}

    return score


def _ngrams(dataset: Dataset, device: torch.device) -> Score:
    """Distance of n-gram frequencies to those of the training data, and the share of n-grams that it does not have."""
    train = dataset.train[:].long().to(device)

    def score(samples: Tensor) -> dict[str, float]:
        samples = samples.to(device)
        texts = (dataset.text_mask(samples), dataset.text_mask(train))
        return {f"{N}-gram distance": ngram_distance(samples, train, N), "novelty": novelty(samples, train, N, *texts)}

    return score


def ngram_distance(samples: Tensor, others: Tensor, n: int) -> float:
    """Total variation distance of the n-gram frequencies of two sets of samples [N, L]."""
    ours, theirs = ngram_numbers(samples, others, n=n)
    size = int(max(ours.max(), theirs.max())) + 1
    p, q = (numbers.flatten().bincount(minlength=size).double() for numbers in (ours, theirs))
    return float((p / p.sum() - q / q.sum()).abs().sum() / 2)


TASKS = {
    "MNIST": Task(
        "mnist/train-images-idx3-ubyte.gz",
        ("mnist-teacher", "mnist-dmmd"),
        ("data.size=28", "backbone.width=256", "backbone.depth=8", "train.batch_size=128"),
        ("data.size=7", "data.limit=200", "backbone.width=16", "backbone.depth=1", "train.batch_size=8"),
        _frechet,
    ),
    "KJV": Task(
        "kjv/kjv.txt",
        ("text-teacher", "text-dmmd"),
        (
            "data.type=text",
            "data.length=256",
            "train.batch_size=256",
            "backbone.width=384",
            "backbone.depth=6",
            "backbone.heads=6",
        ),
        ("data.length=16", "backbone.width=16", "backbone.depth=1", "backbone.heads=2", "train.batch_size=8"),
        _ngrams,
    ),
}
