"""Runs that outlive their machine: damaged checkpoints, full disks, lost consoles, other teachers, no numbers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewstep.cli.main import main
from fewstep.core.errors import OperationError, UserError
from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.training.launch import fit, launch
from fewstep.training.saver import Saver, StorageError
from fewstep.training.trainer import Trainer

Train = Callable[..., RunDir]
SHORT = ("train.steps=8", "train.log_every=2", "train.checkpoint_every=2", "train.keep_last=4")


def weights_of(run: RunDir) -> dict[str, torch.Tensor]:
    last = run.last_checkpoint()
    assert last is not None
    return load_checkpoint(last, "roles/student")


def damage(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 4
    file.write_bytes(content)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, run = train("smoke-teacher", "straight", *SHORT), train("smoke-teacher", "run", *SHORT)
    for checkpoint in list_checkpoints(run.checkpoints)[-2:]:
        damage(checkpoint)
    assert open_model(run.path).step == 4, "readers use the one before, and rename nothing"
    launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))
    said = capsys.readouterr().out
    assert said.count("is damaged (the SHA-256 of state.safetensors is another); it is now damaged-step-0000000") == 2
    assert "resumed at step 4" in said
    assert (run.checkpoints / "damaged-step-00000008").is_dir()
    for name, weight in weights_of(straight).items():
        assert torch.equal(weight, weights_of(run)[name]), name


def test_a_run_without_a_whole_checkpoint_says_so_and_then_begins_anew(train: Train) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    for checkpoint in list_checkpoints(run.checkpoints):
        damage(checkpoint)
    with pytest.raises(OperationError, match=r"no whole checkpoint left .* again begins it anew"):
        launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))
    launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))
    assert run.status["state"] == "finished"


def test_a_checkpoint_of_another_run_is_refused(train: Train) -> None:
    run, other = train("smoke-teacher", "run", *SHORT), train("smoke-teacher", "other", *SHORT, "seed=1")
    newest = list_checkpoints(run.checkpoints)[-1]
    shutil.rmtree(newest)
    shutil.copytree(list_checkpoints(other.checkpoints)[-1], newest)
    with pytest.raises(OperationError, match="belongs to another run"):
        launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))


def test_a_copied_run_goes_on(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    copy = RunDir(shutil.copytree(run.path, tmp_path / "copy"))
    shutil.rmtree(list_checkpoints(copy.checkpoints)[-1])
    launch("smoke-teacher", sets=list(SHORT), resume=str(copy.path))
    (copy.path / "run-id").unlink()
    shutil.rmtree(list_checkpoints(copy.checkpoints)[-1])
    launch("smoke-teacher", sets=list(SHORT), resume=str(copy.path))
    assert copy.identity() == run.identity(), "checkpoints say it, if its file is lost"


def test_another_teacher_is_refused_by_its_digest(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher", *SHORT)
    student = str(tmp_path / "student")
    launch("smoke-dmmd", run_dir=student, teacher=str(teacher.path), sets=list(SHORT))
    shutil.rmtree(list_checkpoints(RunDir(Path(student)).checkpoints)[-1])
    shutil.rmtree(teacher.path)
    train("smoke-teacher", "teacher", *SHORT, "seed=1")
    with pytest.raises(UserError, match=r"teacher\.run: run '.*' began with another teacher"):
        launch("smoke-dmmd", resume=student, teacher=str(teacher.path), sets=list(SHORT))


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """Neither in a checkpoint nor as an export; the newest checkpoint stays the one before."""
    loaded = load_recipe("smoke-teacher", list(SHORT))
    run = RunDir.create("run", tmp_path / "run")
    trainer = Trainer.from_recipe(loaded.recipe, run, echo=lambda line: None)
    step = trainer._step

    def poisoned() -> bool:
        goes_on = step()
        if trainer.ctx.step == 5:
            with torch.no_grad():
                next(iter(trainer.ema.weights.values())).view(-1)[0] = float("nan")
        return goes_on

    trainer._step = poisoned  # type: ignore[method-assign]
    with pytest.raises(
        OperationError, match=r"weight '.*' of 'the student's average' is not finite at step 6; nothing"
    ):
        trainer.fit()
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000002", "step-00000004"]
    assert not run.export.exists()
    assert run.status["state"] == "failed"


def test_a_full_disk_stops_the_run_and_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage, run = shutil.disk_usage, RunDir(tmp_path / "run")

    def nearly_full(path: str | Path) -> object:
        total, used, free = usage(path)
        return type(usage(path))(total, used, 1000 if list_checkpoints(run.checkpoints) else free)

    monkeypatch.setattr("fewstep.training.saver.shutil.disk_usage", nearly_full)
    command = ["train", "smoke-teacher", "--run-dir", str(run.path), *(f"--set={change}" for change in SHORT)]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "is nearly full: the checkpoint of step 4 was not begun" in message
    assert f"continue with --resume {run.path}" in message
    assert run.status["state"] == "stopped"
    monkeypatch.undo()
    launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))
    assert run.status["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_a_failed_write_is_told_by_the_next_call(
    error: Exception, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = Saver(tmp_path, keep_last=2, keep_every=None, run="r", teacher=None)
    saver.save(1, {"w": torch.ones(3)})
    saver.wait()

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("fewstep.runs.checkpoint.save_tensors", fails)
    saver.save(2, {"w": torch.ones(3)})
    with pytest.raises(StorageError, match=f"cannot write the checkpoint of step 2 .* {message}; the last one is .*1"):
        saver.wait()
    saver.close()


def test_checkpoints_are_written_in_order_and_hold_the_moment_of_their_save(tmp_path: Path) -> None:
    saver = Saver(tmp_path, keep_last=9, keep_every=None, run="r", teacher=None)
    weight = torch.zeros(100_000)
    for step in range(1, 6):
        weight.fill_(step)
        saver.save(step, {"w": weight})
        weight.fill_(-1.0)
    saver.wait()
    saver.close()
    assert [float(load_checkpoint(path)["w"].mean()) for path in list_checkpoints(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM])
def test_signals_save_and_end(number: signal.Signals, tmp_path: Path) -> None:
    run = RunDir.create("run", tmp_path / "run")
    lines: list[str] = []

    def echo(line: str) -> None:
        lines.append(line)
        if line.startswith("step 2/"):
            os.kill(os.getpid(), number)

    loaded = load_recipe("smoke-teacher", [*SHORT, "train.log_every=1"])
    before = signal.signal(number, signal.SIG_DFL)  # tests may run under nohup
    try:
        result = fit(loaded, run, echo=echo)
    finally:
        signal.signal(number, before)
    assert not result.finished
    assert run.status["state"] == "stopped"
    assert any("saved" in line and "--resume" in line for line in lines)


def test_a_lost_terminal_that_is_to_be_ignored_is(tmp_path: Path) -> None:
    """As `nohup` asks for."""

    def echo(line: str) -> None:
        if line.startswith("step 2/"):
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = RunDir.create("run", tmp_path / "run")
        assert fit(load_recipe("smoke-teacher", [*SHORT, "train.log_every=1"]), run, echo=echo).finished
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lost_console_does_not_stop_a_run(tmp_path: Path) -> None:
    def echo(line: str) -> None:
        if "step" in line:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    run = RunDir.create("run", tmp_path / "run")
    assert fit(load_recipe("smoke-teacher", list(SHORT)), run, echo=echo).finished
    assert "step 8/8" in run.log.read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "status.json.partial", "tb", "samples"])
def test_what_is_not_needed_to_go_on_never_stops_a_run(name: str, tmp_path: Path) -> None:
    """A folder or file in the place of each destination; one warning, and the same weights."""
    run, lines = RunDir.create("run", tmp_path / "run"), list[str]()
    (run.path / name).write_text("") if name in ("tb", "samples") else (run.path / name).mkdir()
    assert fit(load_recipe("smoke-teacher", list(SHORT)), run, echo=lines.append).finished
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == (0 if name == "samples" else 1), warnings


def test_damaged_lines_of_metrics_are_dropped(train: Train) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    shutil.rmtree(list_checkpoints(run.checkpoints)[-1])
    run.metrics.write_bytes(b'{"step": 2}\n\xff\xfe{"st\n[]\n{"step": "x"}\n{"step": 4}\n{"step": 6')
    launch("smoke-teacher", sets=list(SHORT), resume=str(run.path))
    assert [line.split(",")[0] for line in run.metrics.read_text().splitlines()][:2] == ['{"step": 2}', '{"step": 4}']


def test_a_checkpoint_is_due_by_the_clock_too(tmp_path: Path) -> None:
    run = RunDir.create("run", tmp_path / "run")
    changes = ["train.steps=6", "train.checkpoint_every=1000", "train.checkpoint_minutes=1e-9", "train.keep_last=9"]
    fit(load_recipe("smoke-teacher", changes), run, echo=lambda line: None)
    assert len(list_checkpoints(run.checkpoints)) == 6


@pytest.mark.medium
def test_a_console_that_takes_nothing_does_not_stop_the_command(tmp_path: Path) -> None:
    """The first and last lines are printed by the command, not by the trainer."""
    sets = [word for change in SHORT for word in ("--set", change)]
    command = [sys.executable, "-m", "fewstep", "train", "smoke-teacher", *sets, "--run-dir", str(tmp_path / "run")]
    with Path("/dev/full").open("w") as console:
        done = subprocess.run(command, stdout=console, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert RunDir(tmp_path / "run").status["state"] == "finished"
