"""Suites in several processes: the same results, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import SUITE

from fewstep.bench.results.results import Results
from fewstep.bench.running import pool, runner
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.pool import Pool
from fewstep.bench.running.runner import run_suite
from fewstep.bench.running.session import Session
from fewstep.bench.running.tasks import Task
from fewstep.bench.suites.loading import load_suite
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.errors import OperationError

Write = Callable[..., str]


def load(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def timeless(results: Results) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"seconds"}) for row in results.rows]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Processes that pools start; none of them may be alive after the test."""
    started: list[Any] = []

    class Watched(Pool):
        def __exit__(self, *error: Any) -> None:
            started.extend(member.process for member in self.members)
            super().__exit__(*error)

    monkeypatch.setattr(pool, "Pool", Watched)
    yield started
    assert not any(process.is_alive() for process in started)


@pytest.mark.medium
def test_two_processes_measure_what_one_does(
    finished: Path, write_suite: Write, tmp_path: Path, children: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Same rows in the same order, same claims; lines say whose they are."""
    source = write_suite()
    one, two = load(finished), load(run_suite(source, str(tmp_path / "out"), jobs=2))
    assert timeless(two) == timeless(one)
    assert [claim.text for claim in two.claims] == [claim.text for claim in one.claims]
    assert [(case.id, case.digest, case.parameters) for case in two.cases] == [
        (case.id, case.digest, case.parameters) for case in one.cases
    ]
    assert two.complete
    assert len(children) == 2
    assert (two.environment["jobs"], two.environment["threads"]) == (2, 1)
    assert f"--out {tmp_path / 'out'} --jobs 2" in two.suite.command
    said = capsys.readouterr().out
    assert "  student: step 20/20 " in said
    assert "  data: real samples: ngram_tv " in said
    assert "2 processes of 1 thread" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.medium
def test_a_failure_or_a_killed_process_stops_only_what_learns_from_it(
    write_suite: Write, tmp_path: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [
        {"name": "wild", "recipe": "./teacher.yaml", "steps": [2], "set": ["optim.lr=1e30", "optim.clip=null"]},
        {"name": "pupil", "recipe": "./student.yaml", "teacher": "wild", "steps": [2]},
        {"name": "shot", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]},
    ]
    real = Pool.submit

    def submit(self: Pool, task: Task, slots: Any) -> None:
        real(self, task, slots)
        if task == ("train", "shot"):
            next(member for member in self.members if member.task == task).process.kill()

    monkeypatch.setattr(Pool, "submit", submit)
    with pytest.raises(OperationError, match=r"3 of 4 cases failed: wild: .*; pupil: skipped, .*; shot: its process"):
        run_suite(write_suite(cases=cases, claims=None), str(tmp_path / "out"), jobs=2)
    results = load(tmp_path / "out")
    assert {row.case for row in results.rows} == {REFERENCE, "oracle"}
    reasons = {failure.case: failure.reason for failure in results.failures}
    assert "lower optim.lr" in reasons["wild"]
    assert reasons["pupil"] == "skipped, since it learns from 'wild', which failed"
    assert reasons["shot"] == "its process was ended by SIGKILL; was there too little memory?"
    assert len(children) == 2, "another process took the place of that which was killed"


@pytest.mark.medium
def test_a_stop_reaches_every_process_and_the_same_command_continues(
    finished: Path, write_suite: Write, tmp_path: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's process saves; rows that were complete are there."""
    source, out, lines = write_suite(), tmp_path / "out", []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("  student: step 10/20 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "say", say)
        assert run_suite(source, str(out), jobs=2) == out
    assert lines[-1].startswith("stopped; all measured rows are stored")
    stopped = load(out)
    assert not stopped.complete
    assert not stopped.failures
    assert not any(process.is_alive() for process in children)
    assert timeless(load(run_suite(source, str(out)))) == timeless(load(finished))


@pytest.mark.medium
def test_processes_end_with_a_session_that_is_killed(write_suite: Write, tmp_path: Path) -> None:
    """They would train on in folders that the next call uses."""
    program = (
        "import multiprocessing, os, signal, time; from fewstep.bench.running.process import run_tasks\n"
        "if __name__ == '__main__':\n"
        "    pipe, child_pipe = multiprocessing.Pipe()\n"
        "    child = multiprocessing.get_context('spawn').Process(target=run_tasks, args=(child_pipe, None))\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen([sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
        until = time.monotonic() + 120
        while _runs(child) and time.monotonic() < until:
            time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_longest_critical_path_goes_first(write_suite: Write, tmp_path: Path) -> None:
    """A teacher waits for nobody; then what it teaches goes before what it draws."""
    long = ["train.steps=500"]
    cases = [{**spec, "set": long} if spec["name"] == "student" else spec for spec in SUITE["cases"]]
    session = Session(make_plan(load_suite(write_suite(cases=cases)), tmp_path / "out"), "command", print)
    order = sorted(session.tasks, key=session.critical_path, reverse=True)
    assert [str(task) for task in order[:2]] == ["train teacher", "train student"]
    needs = {str(task): [str(need) for need in session.needs(task)] for task in session.tasks}
    assert needs["train student"] == ["train teacher"]
    assert needs["sample student"] == ["train student"]
    assert needs["sample oracle"] == needs["sample data"] == needs["train teacher"] == []
