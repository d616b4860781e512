"""Rows of results: their keys, their samples, and their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.bench.results.results import CaseResult, Row, SweepPoint
from fewstep.bench.running.plan import Plan, PreparedCase
from fewstep.bench.running.speed import time_drawing, train_tokens_per_second
from fewstep.bench.suites.suite import REFERENCE
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.errors import OperationError
from fewstep.core.references import replace_references
from fewstep.core.registry import Raw
from fewstep.data.base import Dataset
from fewstep.data.synthetic.source import Source
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.evaluation.grid_search import grid_run
from fewstep.evaluation.score import judge, score
from fewstep.grids.files import read_grid_file
from fewstep.metrics.base import DrawnFrom
from fewstep.runs.build import build_process
from fewstep.runs.checkpoint import step_of
from fewstep.runs.contents import reference_digests
from fewstep.runs.environment import training_commit
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, open_model
from fewstep.runtime.hashing import digest_of
from fewstep.runtime.seeding import generator_for
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.sampling.draw import Drawn, draw
from fewstep.sampling.labels import labels_like_data
from fewstep.sampling.sheets import save_nearest_sheet, save_sheet

SHEET = 50
"""Number of samples on a sheet."""


@dataclass(frozen=True)
class Slot:
    """A row that the suite requires. `key` is a digest of everything that its values depend on."""

    case: str
    train_seed: int | None
    steps: int | None
    seed: int
    key: str
    sampler: dict[str, Any] | None = None
    """Settings of the sampler; None for real samples."""
    sweep: dict[str, float] | None = None
    """The swept setting and its value; None for a row without a sweep."""


@dataclass(frozen=True)
class Model:
    """A model to sample. An oracle has no parameters."""

    denoiser: Denoiser
    sampler: Sampler
    batch_size: int
    precision: str
    parameters: int | None
    values: dict[str, float] = field(default_factory=dict)
    """Values of metrics of the model itself, equal in all its rows."""


def plan_slots(plan: Plan) -> list[Slot]:
    """All rows of a suite in order: real samples, then cases by steps and seed."""
    suite = plan.suite
    common: dict[str, Any] = {"samples": suite.samples, "metrics": plan.metrics(by="digest")}
    common |= {} if plan.code is None else {"code": plan.code}
    common |= {} if suite.speed is None else {"speed": suite.speed.model_dump(mode="json")}

    def slot(case: PreparedCase, steps: int, seed: int, sweep: dict[str, float] | None = None) -> Slot:
        sampler = {**sampler_settings(plan, case), **(sweep or {})}
        facts = {"case": case.name, "digest": case.digest, "steps": steps, "seed": seed, "sampler": sampler, **common}
        facts |= {"sweep": sweep} if sweep else {}
        facts |= {"outside": external[case.id]} if external[case.id] else {}
        return Slot(case.name, case.train_seed, steps, seed, digest_of(facts), sampler, sweep)

    slots = [_real_slot(plan, seed, common) for seed in suite.seeds]
    external = {case.id: reference_digests(case.recipe.sampler) for case in plan.cases}
    for case in plan.cases:
        slots += [slot(case, steps, seed) for steps in case.spec.steps for seed in suite.seeds]
        if sweep := case.spec.sweep:
            steps = sweep.step_count(case.spec.steps)
            slots += [slot(case, steps, seed, point) for point in sweep.points for seed in suite.seeds]
    return slots


def _real_slot(plan: Plan, seed: int, common: dict[str, object]) -> Slot:
    """A row of real samples."""
    facts = {"case": REFERENCE, "digest": plan.dataset.fingerprint, "steps": None, "seed": seed, "sampler": None}
    return Slot(REFERENCE, None, None, seed, digest_of(facts | common))


def sampler_settings(plan: Plan, case: PreparedCase) -> dict[str, object]:
    """A case's sampler as plain data, with the file of searched steps relative to the suite's folder."""
    settings: dict[str, Any] = case.recipe.sampler.model_dump(mode="json")
    if case.spec.grid_search:
        settings["grid"] = {"type": "measured", "file": _relative(_grid_file(case), plan.folder)}
    return settings


def open_case(case: PreparedCase, dataset: Dataset, metrics: Sequence[Raw] = ()) -> Model:
    """Open the trained network of a case, or its source's oracle, with the recipe's sampler.

    Measures those of `metrics` that score models. Searches for steps first if the case requires it, and stores them in
    the run folder.
    """
    config, section = case.recipe.sampler, case.recipe.evaluate
    sampler = build_component(SAMPLERS, _with_searched_steps(case) if case.spec.grid_search else config)
    if case.spec.oracle:
        assert isinstance(dataset, Source)
        oracle = exact_denoiser(dataset, build_process(case.recipe, dataset))
        values = judge(DrawnFrom(oracle, case.recipe), dataset, metrics)
        return Model(oracle, sampler, section.batch_size, section.precision, None, values)
    device = case.recipe.train.device
    denoiser = open_model(case.run.path, weights=section.weights, device=device, dataset=dataset).denoiser
    parameters = sum(weight.numel() for weight in denoiser.parameters())
    values = judge(DrawnFrom(denoiser, case.recipe), dataset, metrics)
    guided = sampler.guide(denoiser, dataset)
    return Model(guided, sampler, section.batch_size, section.precision, parameters, values)


def _with_searched_steps(case: PreparedCase) -> dict[str, object]:
    """The case's sampler with the step times of least cost for its model. They are searched once."""
    file, steps = _grid_file(case), case.spec.steps
    if not (file.exists() and set(steps) <= read_grid_file(file).walks.keys()):
        grid_run(str(case.run.path), steps, str(file), weights=case.recipe.evaluate.weights)
    return {**case.recipe.sampler.model_dump(mode="json"), "grid": {"type": "measured", "file": str(file)}}


def _grid_file(case: PreparedCase) -> Path:
    return case.run.path / f"grid-{case.name}.json"


def measure(plan: Plan, slot: Slot, model: Model | None, *, commit: str | None, progress: Callable[[int], None]) -> Row:
    """Draw and score the samples of one row. Samples of the suite's first seeds are also written as a sheet.

    Args:
        model: None for real samples.
        progress: called with the number of samples drawn so far.

    Raises:
        OperationError: a value is not finite.
    """
    start = time.monotonic()
    drawn, labels = _tokens(plan, slot, model, progress)
    tokens = drawn.tokens
    seconds = time.monotonic() - start
    drawn_from = model.denoiser if model else None
    values = score(tokens, plan.dataset, plan.metrics(by="run"), labels=labels, drawn_from=drawn_from)
    if model:
        values |= model.values | (_speed(plan, slot, model) if plan.suite.speed else {})
    invalid = [name for name, value in values.items() if not math.isfinite(value)]
    if invalid:
        where = ", ".join(filter(None, (f"steps {slot.steps}", sweep_text(slot.sweep), f"seed {slot.seed}")))
        raise OperationError(f"{invalid[0]} is {values[invalid[0]]} for {slot.case} ({where})")
    return Row(
        key=slot.key,
        case=slot.case,
        train_seed=slot.train_seed,
        steps=slot.steps,
        nfe=drawn.nfe,
        passes=drawn.passes,
        seed=slot.seed,
        samples=len(tokens),
        seconds=round(seconds, 3),
        sampler=slot.sampler,
        sweep=slot.sweep,
        values=values,
        sheet=_sheet(plan, slot, tokens),
        commit=commit,
    )


def _tokens(
    plan: Plan, slot: Slot, model: Model | None, progress: Callable[[int], None]
) -> tuple[Drawn, Tensor | None]:
    """Samples of a row, and their labels ([N] or None)."""
    count = plan.suite.samples
    if model is None or slot.steps is None:
        tokens, labels = real_samples(plan.dataset, count, slot.seed)
        return Drawn(tokens), labels
    labels = labels_like_data(model.denoiser, plan.dataset, count, slot.seed)
    drawn = draw(
        with_sweep(model.sampler, slot.sweep),
        model.denoiser,
        count,
        steps=slot.steps,
        seed=slot.seed,
        batch_size=model.batch_size,
        labels=labels,
        precision=model.precision,
        progress=lambda count, _: progress(count),
    )
    return drawn, labels


def with_sweep(sampler: Sampler, sweep: dict[str, float] | None) -> Sampler:
    """The sampler with the value of its swept setting."""
    return SAMPLERS.build({**sampler.config.model_dump(mode="json"), **sweep}) if sweep else sampler


def _speed(plan: Plan, slot: Slot, model: Model) -> dict[str, float]:
    """Speed of drawing a row's samples again. The model has just drawn them, so it is warm."""
    assert plan.suite.speed
    draw = lambda: _tokens(plan, slot, model, lambda count: None)[0].tokens  # noqa: E731
    return time_drawing(draw, model.denoiser.device, plan.suite.speed.repeats)


def real_samples(dataset: Dataset, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Real samples (LongTensor [N, L]) and their labels (LongTensor [N]), or None without labels.

    Exact draws from a source with a known distribution, else up to `count` training samples without repetition.
    """
    generator = generator_for(seed, "bench/real")
    if isinstance(dataset, Source):
        return dataset.draw(count, generator), None
    rows = torch.randperm(len(dataset), generator=generator)[:count]
    return dataset.train[rows].long(), None if dataset.labels is None else dataset.labels[rows]


def _sheet(plan: Plan, slot: Slot, tokens: Tensor) -> str | None:
    """Write a sheet for a row of the suite's first seeds, for images also one of nearest neighbours.

    Returns:
        The sheet's path relative to the results; None for a row of other seeds.
    """
    first = (plan.suite.train_seeds or (None,))[0]
    if slot.seed != plan.suite.seeds[0] or slot.train_seed not in (None, first):
        return None
    name = slot.case if slot.steps is None else f"{slot.case}-steps{slot.steps}"
    # A dot in the name would be taken for the start of the suffix.
    name += "".join(f"-{key}-{value:g}".replace(".", "_") for key, value in (slot.sweep or {}).items())
    save_nearest_sheet(plan.folder / "samples" / f"{name}-nearest", plan.dataset, tokens[:SHEET])
    return save_sheet(plan.folder / "samples" / name, plan.dataset, tokens[:SHEET]).relative_to(plan.folder).as_posix()


def describe_case(plan: Plan, case: PreparedCase, parameters: int | None) -> CaseResult:
    """Facts about a case's model, for the results."""
    trained, existing = not case.spec.oracle, case.spec.existing
    relative = replace_references(case.recipe, lambda reference: _relative(reference.value, plan.folder))
    resolved = relative.model_dump(mode="json")
    resolved["sampler"] = sampler_settings(plan, case)
    return CaseResult(
        name=case.name,
        train_seed=case.train_seed,
        label=case.label,
        recipe=case.recipe.name if existing else case.spec.recipe or "",
        set=() if existing else (*plan.suite.set, *case.spec.set, *plan.loaded.sets),
        digest=case.digest,
        teacher=case.spec.teacher,
        oracle=case.spec.oracle,
        model=case.spec.model,
        swept=_swept(plan, case),
        parameters=parameters,
        train_steps=case.recipe.train.steps if trained else None,
        train_seconds=train_seconds(case.run) if trained else None,
        train_tokens_per_second=_train_speed(plan, case) if trained else None,
        run=_relative(case.run.path, plan.folder) if trained else None,
        commit=training_commit(case.run.environment) if trained else None,
        logged=(case.run.log_lines() or [{}])[-1] if trained else {},
        resolved=resolved,
    )


def _swept(plan: Plan, case: PreparedCase) -> SweepPoint | None:
    """A case's place in a sweep of its recipe, if a sweep made it."""
    swept = plan.loaded.swept.get(case.name)
    return SweepPoint(case=swept.case, label=swept.label, steps=swept.steps, point=swept.point) if swept else None


def trained_steps(run: RunDir) -> int:
    """Step of a run's newest checkpoint; 0 without one."""
    checkpoint = run.last_checkpoint()
    return step_of(checkpoint) if checkpoint else 0


def train_seconds(run: RunDir) -> float:
    """Seconds in the training loop, over all sessions. The log's seconds start at 0 in each session."""
    total = last = 0.0
    for line in run.log_lines():
        seconds = line.get("seconds", last)
        total, last = total + seconds - (last if seconds >= last else 0.0), seconds
    return round(total, 3)


def _train_speed(plan: Plan, case: PreparedCase) -> float | None:
    """Training speed in tokens per second."""
    return train_tokens_per_second(case.run.log_lines(), case.recipe.train.batch_size * plan.dataset.spec.length)


def _relative(path: str | Path, folder: Path) -> str:
    """A path relative to `folder` if it lies below, else unchanged."""
    path = Path(path)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
