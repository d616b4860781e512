"""Conformance of objectives: finite loss, gradients of the phase's roles only, unchanged frozen roles, exact resume."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.core.errors import RecipeError
from fewstep.core.registry import Raw
from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.objectives.base import OBJECTIVES, Batch, StepContext
from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.checkpoint import list_checkpoints
from fewstep.runs.folder import RunDir
from fewstep.samplers.base import SAMPLERS
from fewstep.training.loggers import VOLATILE
from fewstep.training.trainer import Trainer

_NONE: Mapping[str, object] = MappingProxyType({})


def check_objective(
    config: Raw,
    *,
    processes: tuple[str, ...] | None = None,
    steps: int = 6,
    sections: Mapping[str, object] = _NONE,
    teacher: Mapping[str, object] = _NONE,
) -> None:
    """Assert that an objective keeps the contract of `Objective`, inside the real trainer.

    Args:
        config: name, mapping or config of a registered objective.
        processes: names of its processes; by default masked and uniform, except for those that it refuses.
        steps: number of steps of the runs that are compared for exact resume.
        sections: further keys of the recipe, by their dotted names (`step_input`, `backbone.time_conditioned`); those
            of the backbone, and the sampler of one that goes block by block, are also the teacher's.
        teacher: further keys of the teacher's recipe, for objectives with a teacher of another kind.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    shared = {key: value for key, value in sections.items() if key.startswith("backbone.")}
    if "sampler" in sections and SAMPLERS.get(SAMPLERS.parse(sections["sampler"]).type).cls.traits.gives_context:  # type: ignore[arg-type]
        shared["sampler"] = sections["sampler"]
    for process in processes or _processes(config, sections):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            trained = _train(_recipe("denoising", process, 4, None, {**shared, **teacher}), root / "teacher")
            recipe = _recipe(config, process, steps, trained.run.path, sections)
            trainer = Trainer.from_recipe(recipe, _run(recipe, root / "gradients"), echo=_silent)
            _check_gradients(trainer)
            _check_reduction(trainer)
            _check_resume(recipe, root)


def _processes(config: Raw, sections: Mapping[str, object] = _NONE) -> list[str]:
    """The processes, of masked and uniform, that an objective accepts."""
    accepted, refused = [], {}
    for process in ("masked", "uniform"):
        try:
            _recipe(config, process, 1, Path("unused"), sections)
            accepted.append(process)
        except RecipeError as error:
            refused[process] = str(error)
    assert accepted, f"neither process is accepted: {refused}"
    return accepted


def _recipe(
    objective: Raw, process: str, steps: int, teacher: Path | None, sections: Mapping[str, object] = _NONE
) -> Recipe:
    parsed = OBJECTIVES.parse(objective)
    kind = OBJECTIVES.get(parsed.type).cls
    roles, sampler = kind.roles, kind.sampler or "ancestral"
    raw: dict[str, Any] = {
        "name": "conformance",
        "data": {"type": "markov", "vocab_size": 4, "length": 6, "size": 64},
        "process": process,
        "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.1},
        "objective": parsed.model_dump(mode="json"),
        "sampler": sampler,
        "train": {
            "steps": steps,
            "batch_size": 8,
            "log_every": 2,
            "checkpoint_every": (steps + 1) // 2,
            "device": "cpu",
        },
    }
    if any(role.network.reads_labels for role in roles.values()):
        raw["data"] = "digits"
    if any(issubclass(role.network, NetworkAutoencoder) for role in roles.values()):
        raw["data"] = "digits"
        raw["backbone"] = {"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": 12, "code_width": 4}
    if any(role.adapters for role in roles.values()):
        raw["noise_input"] = "stable" if kind.needs_logit_noise else {"type": "gaussian", "channels": 4}
    if (only := SAMPLERS.get(sampler).cls.traits.only_steps) is not None:
        raw["evaluate"] = {"steps": [only]}
    if "teacher" in roles:
        raw["teacher"] = {"run": str(teacher)}
    for key, value in sections.items():
        section, _, name = key.partition(".")
        raw[section] = {**raw[section], name: value} if name else value
    return parse_recipe(raw)


def _silent(line: str) -> None:
    """Discard console lines."""


def _run(recipe: Recipe, path: Path) -> RunDir:
    run = RunDir.create(recipe.name, path)
    run.resolved.write_text(dump_recipe(recipe))
    return run


def _train(recipe: Recipe, path: Path) -> Trainer:
    trainer = Trainer.from_recipe(recipe, _run(recipe, path), echo=_silent)
    trainer.fit()
    return trainer


def _check_gradients(trainer: Trainer) -> None:
    trainer.objective.setup(trainer.ctx)
    batch = trainer.batch(torch.arange(8, device=trainer.device))
    with torch.no_grad():  # equal roles may give no gradient
        for role in trainer.roles.values():
            for parameter in role.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for phase in trainer.objective.phases():
        unknown = [name for name in phase.train if name not in trainer.trained]
        assert not unknown, f"phase '{phase.name}' trains {unknown}, which are not trained roles"
        for name, role in trainer.roles.items():
            role.take_gradients(name in phase.train)
            role.zero_grad()
        out = trainer.objective.loss(phase, batch, trainer.ctx)
        assert out.loss.ndim == 0, "a loss is a scalar"
        assert torch.isfinite(out.loss), f"loss of phase '{phase.name}' is {out.loss}"
        for name, value in out.metrics.items():
            parts = value if isinstance(value, tuple) else (value,)
            assert not any(part.requires_grad for part in parts), f"metric '{name}' must be detached"
        out.loss.backward()
        for name, role in trainer.roles.items():
            moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in role.parameters())
            assert moved == (name in phase.train), f"phase '{phase.name}': gradient reaches '{name}': {moved}"


class _Doubled(StepContext):
    """A context with reductions twice as large."""

    def mean(self, values: Tensor, where: Tensor | None = None, *, batch: Batch | None = None) -> Tensor:
        return 2 * super().mean(values, where, batch=batch)

    def sum(self, values: Tensor, *, batch: Batch | None = None) -> Tensor:
        return 2 * super().sum(values, batch=batch)


def _check_reduction(trainer: Trainer) -> None:
    """Loss of objectives with `per_token` passes through `StepContext.mean` or `sum`, and no other reduction."""
    if not trainer.objective.per_token:
        return
    rows, state = torch.arange(8, device=trainer.device), copy.deepcopy(trainer.objective.state_dict())
    for phase in trainer.objective.phases():
        losses = []
        for kind in (StepContext, _Doubled):
            trainer.objective.load_state_dict(copy.deepcopy(state))
            batch = trainer.batch(rows)
            ctx = kind(**{field.name: getattr(trainer.ctx, field.name) for field in fields(trainer.ctx)})
            losses.append(trainer.objective.loss(phase, batch, ctx).loss.detach())
        assert torch.allclose(losses[1], 2 * losses[0], rtol=1e-4, atol=1e-7), (
            f"the loss of phase '{phase.name}' is not reduced by ctx.mean or ctx.sum; use them or set per_token = False"
        )


def _check_resume(recipe: Recipe, root: Path) -> None:
    """A run that is interrupted after half of its steps ends bit-identical to an uninterrupted one."""
    straight = _train(recipe, root / "straight")
    shutil.copytree(straight.run.path, root / "resumed")
    run = RunDir(root / "resumed")
    shutil.rmtree(list_checkpoints(run.checkpoints)[-1])
    resumed = Trainer.from_recipe(recipe, run, echo=_silent)
    resumed.fit()
    _assert_equal(straight.state_dict(), resumed.state_dict(), "")
    assert _metrics(straight.run) == _metrics(resumed.run), "metrics.jsonl differs after a resume"
    fresh = Trainer.from_recipe(recipe, RunDir(root / "unused"), echo=_silent)
    for name in [name for name, role in straight.objective.roles.items() if not (role.trained or role.refreshed)]:
        _assert_equal(fresh.roles[name].state_dict(), straight.roles[name].state_dict(), f"frozen role {name}")


def _metrics(run: RunDir) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def _assert_equal(a: object, b: object, path: str) -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), f"{path}: {a!r} against {b!r}"
        assert torch.equal(a, b), f"{path} differs"
    elif isinstance(a, dict):
        assert isinstance(b, dict), f"{path}: {a!r} against {b!r}"
        assert a.keys() == b.keys(), f"{path}: {a.keys()} against {b.keys()}"
        for key in a:
            _assert_equal(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert isinstance(b, (list, tuple)), f"{path}: {a!r} against {b!r}"
        assert len(a) == len(b), f"{path}: lengths differ"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_equal(x, y, f"{path}/{i}")
    else:
        assert a == b, f"{path}: {a!r} against {b!r}"
