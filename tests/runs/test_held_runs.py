"""One process holds a run or a result: the second is told who does; lists of runs tell the living from the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.cli.main import main
from fewstep.core.errors import OperationError, UserError
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.export.write import export_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.listing import list_runs
from fewstep.runtime.lock import held, is_held
from fewstep.sampling.folder import JobFolder
from fewstep.sampling.job import prepare, sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.training.launch import fit, launch

Train = Callable[..., RunDir]
SHORT = ("train.steps=4", "train.log_every=2")


@contextmanager
def another_process_holds(folder: Path) -> Iterator[int]:
    """A process that holds a folder; yields its number."""
    code = """
        import sys, time
        from pathlib import Path
        from fewstep.runtime.lock import held
        with held(Path(sys.argv[1]), "run"):
            print("held", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_the_second_process_is_told_who_holds_the_run(tmp_path: Path, train: Train) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    with another_process_holds(run.path) as pid:
        message = rf"run folder '.*run' is in use by process {pid} on \S+ since 20.* UTC; wait for its end, or stop it"
        with pytest.raises(OperationError, match=message):
            launch("smoke-teacher", resume=str(run.path), sets=list(SHORT))
        assert is_held(run.path)
    with held(run.path, "run"):
        pass  # a killed process holds nothing


def test_two_benchmarks_of_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_process_holds(tmp_path / "results") as pid, pytest.raises(SystemExit) as stop:
        main(["benchmark", "quickstart", "--quick", "--out", str(tmp_path / "results")])
    assert stop.value.code == 1
    assert str(pid) in json.loads((tmp_path / "results" / ".lock").read_text())["pid"].__str__()


def test_a_damaged_lock_still_locks(tmp_path: Path) -> None:
    with another_process_holds(tmp_path):
        (tmp_path / ".lock").write_text("{")
        with pytest.raises(OperationError, match="in use by another process"), held(tmp_path, "run"):
            pass


def test_the_status_says_who_runs_and_when(train: Train) -> None:
    status = train("smoke-teacher", "run", *SHORT).status
    assert (status["state"], status["step"], status["steps"], status["pid"]) == ("finished", 4, 4, os.getpid())
    assert abs(float(str(status["time"])) - time.time()) < 600


def test_runs_are_listed_with_their_state(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, gone, alive = (train("smoke-teacher", name, *SHORT) for name in ("done", "gone", "alive"))
    for run in (gone, alive):
        run.set_status("running", step=2, steps=4, pid=1 << 22, host=os.uname().nodename)
    with another_process_holds(alive.path):
        states = {Path(row.run).name: row.state for row in list_runs(tmp_path)}
        assert states == {"done": "finished", "gone": "gone", "alive": "running"}
        with pytest.raises(SystemExit):
            main(["runs", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "2/4" in shown
    assert "tokens/s" in shown
    assert shown.count("smoke") == 0
    row = next(row for row in list_runs(tmp_path) if row.run == str(done.path))
    assert row.rate is not None
    assert row.rate > 0
    assert "step" in row.last or "finished" in row.last


def test_a_damaged_status_is_listed_too(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    (run.path / "status.json").write_text("{")
    assert [row.state for row in list_runs(tmp_path)] == ["unknown"]
    with pytest.raises(UserError, match="there is no folder"):
        list_runs(tmp_path / "none")


def test_a_run_that_was_interrupted_in_its_first_moments_begins_anew(tmp_path: Path) -> None:
    """By the same line, whatever it had written by then; a folder with anything else in it is left alone."""
    first = RunDir.create("run", tmp_path / "run")
    fit(load_recipe("smoke-teacher", list(SHORT)), first, echo=lambda line: None)
    for path in (first.checkpoints, first.export.parent):
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    first.export.parent.rmdir()
    first.set_status("running", step=1, steps=4)
    launch("smoke-teacher", run_dir=str(first.path), sets=list(SHORT))
    assert RunDir(first.path).status["state"] == "finished"
    with pytest.raises(UserError, match="is not empty"):
        launch("smoke-teacher", run_dir=str(first.path), sets=list(SHORT))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        RunDir.create("run", tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").exists()


@pytest.mark.medium
def test_a_run_that_hangs_ends_with_its_stacks(tmp_path: Path) -> None:
    code = f"""
        import time
        from fewstep.objectives.denoising import Denoising
        from fewstep.training.launch import launch

        plain, calls = Denoising.loss, []
        def hangs(self, *args):
            calls.append(1)
            if len(calls) == 3:
                time.sleep(600)
            return plain(self, *args)
        Denoising.loss = hangs
        launch("smoke-teacher", run_dir={str(tmp_path / "run")!r}, sets=["train.timeout_minutes=0.05"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=300, check=False)
    assert done.returncode == 1
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Timeout (0:00:03)!" in log
    assert "in hangs" in log
    assert [row.state for row in list_runs(tmp_path)] == ["gone"]


def test_the_second_sampling_of_a_share_is_told(tmp_path: Path, train: Train) -> None:
    run = str(train("smoke-teacher", "run", *SHORT).path)
    request = SampleRequest(count=4, steps=2, out=str(tmp_path / "drawn"))
    folder = JobFolder(tmp_path / "drawn", prepare(run, request).facts, 4)
    folder.begin(request.part, resume=False, batch_size=lambda: 2)
    for resume in (False, True):
        with pytest.raises(OperationError, match=rf"samples folder '.*drawn' is in use by process {os.getpid()} on"):
            sample_run(run, replace(request, resume=resume))
    folder.close()
    with pytest.raises(UserError, match="holds this job unfinished, with 0 of 4 samples; continue it with --resume"):
        sample_run(run, request)
    assert sample_run(run, replace(request, resume=True)).name == "samples.txt"


def test_the_second_evaluation_of_a_run_is_told(train: Train) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    with held(run.evaluate, "evaluation"):
        with pytest.raises(OperationError, match=rf"evaluation folder '.*' is in use by process {os.getpid()} on"):
            evaluate_run(str(run.path), [2], 8)
        assert not list(run.evaluate.glob("*.json"))
    assert evaluate_run(str(run.path), [2], 8)


def test_the_second_export_to_a_folder_is_told(tmp_path: Path, train: Train) -> None:
    run, out = str(train("smoke-teacher", "run", *SHORT).path), tmp_path / "out"
    with (
        held(out, "export", file=tmp_path / ".out.lock"),
        pytest.raises(OperationError, match=rf"export folder '.*out' is in use by process {os.getpid()} on"),
    ):
        export_run(run, str(out))
    export_run(run, str(out))
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"
