"""Models that an older fewstep saved still open, draw their kept samples, and go on training from their checkpoints.

`data/before` holds them. Samples and weights came out identical on the machine that drew them. Other processors add
up in another order, so numbers are compared within 1e-6 of themselves or 1e-7 here; torch without vector instructions
stays within that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from logged_metrics import as_then, logged
from safetensors.torch import load_file

from fewstep import Pipeline
from fewstep.cli.main import main
from fewstep.runs.checkpoint import load_checkpoint
from fewstep.training.launch import launch

BEFORE = Path(__file__).resolve().parents[1] / "data" / "before"
FORMS = {
    "teacher": "teacher",
    "teacher/export/student_ema.safetensors": "teacher",
    "student": "student",
    "student/export/student_ema.safetensors": "student",
    "exported": "student",
}
"""Every form that a model was saved in, and the samples that it drew."""
SAMPLES = ("samples.jsonl", "samples.safetensors", "samples.txt")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old models, as the current folder: the student's recipe names its teacher relative to it."""
    shutil.copytree(BEFORE, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


def fewstep(*args: str) -> None:
    """The command line, which ends without an error."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 0


@pytest.mark.parametrize("form", FORMS)
def test_an_old_model_samples_the_same(form: str, models: Path) -> None:
    pipeline = Pipeline.from_pretrained(form, device="cpu")
    assert torch.equal(pipeline.sample(32, steps=4, seed=3).tokens, drawn(form))


def drawn(form: str) -> torch.Tensor:
    """Tokens that were kept."""
    return load_file(BEFORE / "samples" / FORMS[form] / "samples.safetensors")["tokens"]


@pytest.mark.parametrize("form", FORMS)
def test_the_command_line_writes_the_same_files(form: str, models: Path) -> None:
    fewstep("sample", form, "-n", "32", "--steps", "4", "--seed", "3", "--out", "again")
    before = BEFORE / "samples" / FORMS[form]
    for name in SAMPLES:
        assert (models / "again" / name).read_bytes() == (before / name).read_bytes(), name
    now, then = (json.loads((folder / "sample.json").read_text()) for folder in (models / "again", before))
    assert then.pop("sampler").items() <= now.pop("sampler").items()  # settings that came later stand beside them
    differ = {key for key in now.keys() | then.keys() if now.get(key) != then.get(key)}
    assert differ <= {"run", "seconds", "fewstep", "commit", "device"}


def go_on(name: str, resume: Callable[[str], None]) -> None:
    """Resume an old run from step 10 of 20, and compare its end with the kept one, whose draws are this version's."""
    shutil.rmtree(f"{name}/checkpoints/step-00000020")
    shutil.rmtree(f"{name}/export")
    resume(name)
    run, kept = Path(name), BEFORE / "resumed" / name
    for line, then in zip(logged(run / "metrics.jsonl"), logged(kept / "metrics.jsonl"), strict=True):
        assert as_then(line, then) == pytest.approx(then, rel=1e-6, abs=1e-7)
    newest = "checkpoints/step-00000020"
    now, then = (load_checkpoint(folder / newest) for folder in (run, kept))
    for part in ("roles", "ema", "optimizers"):
        torch.testing.assert_close(now[part], then[part], rtol=1e-6, atol=1e-7)
    assert now["generators"].keys() == {"torch"}
    before = load_checkpoint(BEFORE / name / newest)
    assert {key: now[key] for key in ("step", "updates", "order", "evaluated", "data")} == {
        key: before[key] for key in ("step", "updates", "order", "evaluated", "data")
    }
    torch.testing.assert_close(load_file(run / "export/student_ema.safetensors"), then["ema"]["weights"])


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_an_old_run_goes_on(name: str, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go_on(name, lambda run: str(launch(f"{run}/recipe.resolved.yaml", resume=run)))
    notes = [line for line in capsys.readouterr().out.splitlines() if "of an earlier version" in line]
    assert [line for line in notes if "random" in line], "one line says that draws are others"


def test_the_command_line_resumes_an_old_run(models: Path) -> None:
    """With the line that began it."""
    sets = ("train.checkpoint_every=10", "train.keep_last=2", "train.log_every=5", "backbone.width=8")
    options = [part for change in (*sets, "optim.lr=3e-3", "ema.decay=0.9") for part in ("--set", change)]
    line = ("distill", "smoke-dmmd", "--teacher", "teacher", *options)
    go_on("student", lambda run: fewstep(*line, "--resume", run))


def test_an_old_model_teaches(models: Path) -> None:
    """The old run and its exported file take a teacher's place."""
    sets = ["backbone.width=8", "train.steps=2", "watch.samples=4"]
    for number, teacher in enumerate(("teacher", "teacher/export/student_ema.safetensors")):
        run = launch("smoke-dmmd", teacher=teacher, run_dir=f"new-{number}", sets=sets)
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
