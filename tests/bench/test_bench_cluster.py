"""Suites on a cluster: the same results as in one process, whatever fails or stops."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_suite import SUITE

from fewstep.bench.results.results import Results
from fewstep.bench.running import runner
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.errors import OperationError, UserError

Write = Callable[..., str]
_TIMES = {"seconds", "train_seconds", "train_tokens_per_second", "tokens_per_second", "date", "peak_memory_mb"}
_CALL = {"command", "jobs", "threads"}


def timeless(part: Any) -> Any:
    """Results without times, and without how the suite was called."""
    if isinstance(part, dict):
        return {key: timeless(value) for key, value in part.items() if key not in _TIMES | _CALL}
    return [timeless(value) for value in part] if isinstance(part, list | tuple) else part


def load(folder: Path) -> dict[str, Any]:
    results = Results.load(folder / "results.json").model_dump()
    results["environment"].pop("time", None)
    return timeless(results)


@pytest.mark.medium
def test_a_cluster_measures_what_one_process_does(
    finished: Path, write_suite: Write, tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of results.json but for times; a second call finds everything complete, and hands nothing over."""
    source, out = write_suite(), tmp_path / "out"
    run_suite(source, str(out), cluster=scheduler)
    assert load(out) == load(finished)
    said = capsys.readouterr().out
    assert "cluster: 2 workers; dashboard: http://127.0.0.1:" in said
    assert "  student: step 20/20 " in said
    assert said.index("train student") > said.index("teacher: step 20/20 "), "a student waits for its teacher"
    assert f"--out {out} --cluster {scheduler}" in Results.load(out / "results.json").suite.command
    assert {file.name for file in (out / "samples").iterdir()} == {
        file.name for file in (finished / "samples").iterdir()
    }
    run_suite(source, str(out), cluster=scheduler)
    said = capsys.readouterr().out
    assert "train student (D-MMD): finished before, reused" in said
    assert "begun" not in said
    assert load(out) == load(finished)


@pytest.mark.medium
def test_a_stop_reaches_the_workers_and_the_same_command_continues(
    finished: Path, write_suite: Write, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewstep.cluster.worker import running_tasks

    source, out, lines = write_suite(), tmp_path / "out", []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("  student: step 10/20 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "say", say)
        assert run_suite(source, str(out), cluster=scheduler) == out
    assert running_tasks() == 0
    assert lines[-1].startswith("stopped; all measured rows are stored, and the same command continues: ")
    stopped = Results.load(out / "results.json")
    assert not stopped.complete
    assert not stopped.failures
    assert not list(out.glob(".cluster-*"))
    run_suite(source, str(out), cluster=scheduler)
    assert load(out)["rows"] == load(finished)["rows"]


@pytest.mark.medium
def test_a_failed_case_stops_only_what_learns_from_it(write_suite: Write, tmp_path: Path, scheduler: str) -> None:
    cases = [
        {"name": "wild", "recipe": "./teacher.yaml", "steps": [2], "set": ["optim.lr=1e30", "optim.clip=null"]},
        {"name": "pupil", "recipe": "./student.yaml", "teacher": "wild", "steps": [2]},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]},
    ]
    with pytest.raises(OperationError, match=r"2 of 3 cases failed: wild: .*; pupil: skipped, since it learns from"):
        run_suite(write_suite(cases=cases, claims=None), str(tmp_path / "out"), cluster=scheduler)
    results = Results.load(tmp_path / "out" / "results.json")
    assert {row.case for row in results.rows} == {REFERENCE, "oracle"}
    assert "lower optim.lr" in {failure.case: failure.reason for failure in results.failures}["wild"]


def test_nothing_is_measured_without_a_model_that_metrics_refer_to(
    write_suite: Write, tmp_path: Path, scheduler: str
) -> None:
    teacher = {**SUITE["cases"][0], "set": ["optim.lr=1e30", "optim.clip=null"]}
    metrics = [
        {"type": "ngram_distance", "order": 2},
        {"type": "gradient_moment", "reference": "teacher", "batches": 4},
    ]
    with pytest.raises(OperationError, match=r"nothing can be measured without 'teacher', to which metrics refer: "):
        run_suite(write_suite(cases=[teacher], claims=None, metrics=metrics), str(tmp_path / "out"), cluster=scheduler)


def test_jobs_and_a_cluster_exclude_each_other(write_suite: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--jobs and --cluster exclude each other"):
        run_suite(write_suite(), str(tmp_path / "out"), jobs=2, cluster="tcp://127.0.0.1:9")
