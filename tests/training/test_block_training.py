"""Training of block-autoregressive models: real data as context, exact resume, sampling and scoring of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewstep.denoisers.base import Denoiser
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.predictions.condition import Condition
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.testing.objectives import _check_resume

Train = Callable[..., RunDir]

BLOCKS = (
    "backbone={type: block_transformer, width: 16, depth: 1, heads: 2, block_size: 4, dropout: 0.1}",
    "sampler=block_ancestral",
)
PROCESSES = {
    "masked": (*BLOCKS, "process=masked"),
    "uniform": (*BLOCKS, "process=uniform", "backbone.time_conditioned=true"),
}


@pytest.mark.medium
@pytest.mark.parametrize("process", PROCESSES)
def test_teacher_and_student_train_resume_and_sample(process: str, train: Train, tmp_path: Path) -> None:
    sets = (*PROCESSES[process], "train.steps=6", "train.checkpoint_every=3", "train.log_every=2")
    teacher = train("smoke-teacher", "teacher", *sets)
    changes = (*sets, "objective.weighting=elbo", "step_input={}")
    student = train("smoke-dmmd", "student", *changes, teacher=teacher)
    _check_resume(load_recipe("smoke-teacher", sets).recipe, tmp_path / "a")
    _check_resume(load_recipe("smoke-dmmd", changes, teacher=str(teacher.path)).recipe, tmp_path / "b")
    for run in (teacher, student):
        assert sample_run(str(run.path), SampleRequest(4, steps=2)).is_file()
        rows = evaluate_run(str(run.path), steps=[1, 3], samples=40)
        assert [row["nfe"] for row in rows] == [3, 7], "two blocks, and the first is read once"


def test_every_role_gets_the_real_data_as_context(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = train("smoke-teacher", "teacher", *PROCESSES["masked"], "train.steps=2")
    seen: list[tuple[torch.Tensor, torch.Tensor, Condition]] = []
    true = Denoiser.forward

    def spy(self: Denoiser, x_t: torch.Tensor, t: torch.Tensor, *rest: object, **more: object) -> object:
        seen.append((x_t, t, more["cond"]))  # type: ignore[arg-type]
        return true(self, x_t, t, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "forward", spy)
    train("smoke-dmmd", "student", *PROCESSES["masked"], "train.steps=1", "watch.times=0", teacher=teacher)
    assert len(seen) == 3
    contexts = [cond.context for _, _, cond in seen]
    assert all(context is contexts[0] for context in contexts)
    x_t, t, cond = seen[0]
    assert cond.context is not None
    assert ((x_t == cond.context) | (x_t == 4)).all()
    assert torch.equal(t[:, :4], t[:, :1].expand(-1, 4))
    assert (t[:, 0] != t[:, 4]).any(), "a time for each block"


@pytest.mark.medium
def test_a_trained_one_samples_better_than_chance(train: Train) -> None:
    run = train("smoke-teacher", "run", *PROCESSES["masked"], "train.steps=300", "optim.lr=1e-2")
    few, many = evaluate_run(str(run.path), steps=[1, 8], samples=200)
    untrained = train("smoke-teacher", "none", *PROCESSES["masked"], "train.steps=1")
    (none,) = evaluate_run(str(untrained.path), steps=[8], samples=200)
    values = [row["metrics"]["exact_nll"] for row in (many, few, none)]
    assert values == sorted(values)
    assert values[0] < 0.8 * values[2]
