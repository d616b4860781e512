"""What reaches beyond one network or one step costs one file and no edit: the files of docs/extending.md, used."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.core.kinds import registry
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.export.write import export_run
from fewstep.objectives.base import OBJECTIVES
from fewstep.runs.models import open_model
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.testing import check_objective
from fewstep.training.launch import launch

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
QUICK = ["train.steps=4", "train.checkpoint_every=2", "train.device=cpu"]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in ("objectives", "samplers", "metrics"):
            stack.enter_context(registry(kind).snapshot())
        yield


def recipe(folder: Path, plugin: str, **sections: object) -> str:
    """A recipe in `folder` that names one plugin file and nothing else of its own."""
    (folder / plugin).write_text(FILES[plugin])
    lines = [f"{key}: {value}" for key, value in sections.items()]
    path = folder / "mine.yaml"
    path.write_text("\n".join(["extends: smoke-teacher", "name: mine", f"plugins: [./{plugin}]", *lines]))
    return str(path)


def distilled(folder: Path) -> tuple[Path, Path]:
    """Runs of a teacher and of a D-MMD student of it."""
    teacher = launch("smoke-teacher", run_dir=str(folder / "teacher"), sets=QUICK)
    return teacher, launch("smoke-dmmd", teacher=str(teacher), run_dir=str(folder / "student"), sets=QUICK)


def test_a_sampler_that_asks_another_network(tmp_path: Path) -> None:
    _, student = distilled(tmp_path)
    source = recipe(tmp_path, "second_opinion.py", sampler=f"{{type: second_opinion, other: {student}}}")
    run = launch(source, run_dir=str(tmp_path / "run"), sets=QUICK)
    before = sample_run(str(run), SampleRequest(16, steps=2, seed=1, out=str(tmp_path / "before"))).read_text()
    plain = launch("smoke-teacher", run_dir=str(tmp_path / "plain"), sets=QUICK)
    assert before != sample_run(str(plain), SampleRequest(16, steps=2, seed=1, out=str(tmp_path / "p"))).read_text()
    # The network travels with an export: all runs may go.
    folder = export_run(str(run), str(tmp_path / "out"))
    assert open_model(folder / "other", "auxiliary", device="cpu").role == "auxiliary"
    shutil.rmtree(student)
    shutil.rmtree(run)
    after = sample_run(str(folder), SampleRequest(16, steps=2, seed=1, out=str(tmp_path / "after"))).read_text()
    assert after == before


def test_a_metric_of_a_model(tmp_path: Path) -> None:
    teacher = launch("smoke-teacher", run_dir=str(tmp_path / "teacher"), sets=QUICK)
    source = recipe(tmp_path, "opinion.py", evaluate=f"{{samples: 32, metrics: [{{type: opinion, judge: {teacher}}}]}}")
    run = launch(source, run_dir=str(tmp_path / "run"), sets=QUICK)
    assert evaluate_run(str(run), steps=[2])[0]["metrics"]["opinion"] > 0
    # Its model may lie elsewhere when the run goes on.
    moved = shutil.move(str(teacher), str(tmp_path / "moved"))
    sets = [*QUICK, "train.steps=6", f"evaluate.metrics=[{{type: opinion, judge: {moved}}}]"]
    launch(source, resume=str(run), sets=sets)
    assert evaluate_run(str(run), steps=[2])[0]["metrics"]["opinion"] > 0


def test_an_objective_with_a_store(tmp_path: Path) -> None:
    source = recipe(tmp_path, "replay.py", objective="replay")
    run = launch(source, run_dir=str(tmp_path / "run"), sets=QUICK)
    shutil.copytree(run, tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed/checkpoints/step-00000004")
    launch(source, resume=str(tmp_path / "resumed"), sets=QUICK)
    straight, resumed = (open_model(path, device="cpu").network.state_dict() for path in (run, tmp_path / "resumed"))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert OBJECTIVES.get("replay")
    check_objective({"type": "replay", "size": 2}, processes=("masked",))


TUTORED = '''
from typing import Annotated, Literal

from fewstep import OBJECTIVES, ComponentConfig, LossOutput, Objective, Ref


@OBJECTIVES.register("tutored")
class Tutored(Objective):
    """Denoising with the samples that a tutor finds hard counted twice."""

    class Config(ComponentConfig):
        type: Literal["tutored"] = "tutored"
        tutor: Annotated[str, Ref("run")]

    def loss(self, phase, batch, ctx):
        t = ctx.sample_time(batch.size)
        noised = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
        hard = self.open_model("tutor").network(noised.x_t, t).nll(batch.x0)
        return LossOutput(ctx.mean(ctx.roles["student"](noised.x_t, t).nll(batch.x0) * (1 + hard)))
'''


def test_an_objective_that_asks_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run may find it in another place, and never with other weights."""
    monkeypatch.setitem(FILES, "tutored.py", TUTORED)
    tutor = launch("smoke-teacher", run_dir=str(tmp_path / "tutor"), sets=QUICK)
    source = recipe(tmp_path, "tutored.py", objective=f"{{type: tutored, tutor: {tutor}}}")
    run = launch(source, run_dir=str(tmp_path / "run"), sets=QUICK)
    moved = shutil.move(str(tutor), str(tmp_path / "moved"))
    launch(source, resume=str(run), sets=[*QUICK, "train.steps=6", f"objective.tutor={moved}"])
    launch("smoke-teacher", resume=moved, sets=[*QUICK, "train.steps=6"])
    with pytest.raises(OperationError, match=r"objective\.tutor: run .* began with other weights of this model"):
        launch(source, resume=str(run), sets=[*QUICK, "train.steps=8", f"objective.tutor={moved}"])


@pytest.mark.parametrize("name", ["second_opinion.py", "opinion.py", "replay.py"])
def test_the_page_tells_the_cost(name: str) -> None:
    """Lines with code."""
    hooks = {"second_opinion.py": "`Sampler.guide`", "opinion.py": "`Metric.network`", "replay.py": "`after_step`"}
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| a") and hooks[name] in line]
    code = [line for line in FILES[name].splitlines() if line.strip()]
    assert int(row.split("|")[3]) == len(code)
