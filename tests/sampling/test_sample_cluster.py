"""Samples drawn on a cluster: byte-identical to those of one process, whatever was interrupted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("distributed")

from fewstep.core.errors import OperationError, UserError
from fewstep.runs.folder import RunDir
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import Part, SampleRequest

Train = Callable[..., RunDir]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for the time that it took."""
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    about = json.loads(files["sample.json"])
    return {**files, "sample.json": json.dumps({**about, "seconds": 0}).encode()}


def test_samples_are_byte_identical(train: Train, tmp_path: Path, scheduler: str) -> None:
    """A job begun elsewhere goes on there, and the other way round."""
    from fewstep.sampling import remote
    from fewstep.sampling.distributed import sample_on_cluster

    run = str(train("smoke-teacher", "run").path)
    request = SampleRequest(count=30, batch_size=7, out=str(tmp_path / "one"))
    sample_run(run, request)
    lines: list[str] = []
    there = SampleRequest(count=30, batch_size=7, out=str(tmp_path / "there"))
    with pytest.MonkeyPatch.context() as patch:
        real = remote.store_ranges

        def store_ranges(folder: object, job: object, ranges: list[range], *more: object) -> None:
            if ranges[0].start == 14:
                raise OperationError("this range fails")
            real(folder, job, ranges, *more)

        patch.setattr(remote, "store_ranges", store_ranges)
        with pytest.raises(OperationError, match="this range fails"):
            sample_on_cluster(scheduler, run, there, lines.append)
    with pytest.raises(UserError, match="continue it with --resume"):
        sample_on_cluster(scheduler, run, there, lines.append)
    again = SampleRequest(count=30, batch_size=7, out=str(tmp_path / "there"), resume=True)
    path = sample_on_cluster(scheduler, run, again, lines.append)
    assert path == tmp_path / "there" / "samples.txt"
    assert contents(tmp_path / "there") == contents(tmp_path / "one")
    assert sample_on_cluster(scheduler, run, again, lines.append) == path
    assert lines[-1].endswith("drawn before with these settings")
    assert sum(line.startswith("cluster: ") for line in lines) == 2, "nothing is opened for what is complete"


def test_sigterm_keeps_what_is_drawn(
    train: Train, tmp_path: Path, scheduler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ctrl-C does: a sentence, and the same line with --resume goes on."""
    from fewstep.cluster.worker import running_tasks
    from fewstep.sampling.distributed import sample_on_cluster

    def say(line: str) -> None:
        if line.startswith("cluster: "):
            os.kill(os.getpid(), signal.SIGTERM)

    run, out = str(train("smoke-teacher", "run").path), str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        sample_on_cluster(scheduler, run, SampleRequest(count=9, batch_size=3, out=out), say)
    assert f"kept 0 of 9 samples in {out}; --resume continues" in capsys.readouterr().err
    assert running_tasks() == 0
    again = SampleRequest(count=9, batch_size=3, out=out, resume=True)
    assert sample_on_cluster(scheduler, run, again, lambda line: None).exists()


def test_a_share_and_a_cluster_exclude_each_other() -> None:
    from fewstep.sampling.distributed import sample_on_cluster

    with pytest.raises(UserError, match="--part and --cluster exclude each other"):
        sample_on_cluster("tcp://127.0.0.1:9", "run", SampleRequest(part=Part(1, 2)), print)
