"""Tasks on a scheduler of this process: outcomes, needs, ends, and what is refused before the first task."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_clusters import local_cluster
from remote_tasks import die, fail, refuse, square, wait_for_end

pytest.importorskip("distributed")

from fewstep.cluster import checks
from fewstep.cluster import cluster as module
from fewstep.cluster.cluster import Cluster, Message, open_cluster
from fewstep.cluster.mark import marked
from fewstep.cluster.ordered import _loaded, in_order_on
from fewstep.cluster.settings import ClusterSettings
from fewstep.cluster.worker import Site, package_digest, running_tasks
from fewstep.core.errors import OperationError, UserError
from fewstep.core.plugins import UntrustedPluginError, trusting_plugins


@pytest.fixture
def cluster(scheduler: str, tmp_path: Path) -> Iterator[Cluster]:
    with open_cluster(scheduler, tmp_path, print) as cluster:
        yield cluster


def ignore(message: Message) -> None:
    pass


def test_values_reports_and_needs(cluster: Cluster) -> None:
    messages: list[Message] = []
    first = cluster.submit(("square", "2"), square, 2)
    second = cluster.submit(("square", "3"), square, 3, needs=[first])
    ended = list(cluster.outcomes([first, second], messages.append))
    assert {future.key for future in ended} == {first.key, second.key}
    assert (cluster.outcome(first).value, cluster.outcome(second).value) == (4, 13)
    assert Message(("square", "3"), "line", ("square of 3",)) in messages


def test_a_failure_is_a_sentence_and_skips_what_needs_it(cluster: Cluster) -> None:
    bad = cluster.submit(("refuse",), refuse, "no such thing")
    after = cluster.submit(("square",), square, 2, needs=[bad])
    broken = cluster.submit(("fail",), fail)
    list(cluster.outcomes([bad, after, broken], ignore))
    with pytest.raises(UserError, match=r"^no such thing$"):
        cluster.outcome(bad).unwrap()
    assert cluster.outcome(after).skipped
    with pytest.raises(OperationError, match="ZeroDivisionError: by zero"):
        cluster.outcome(broken).unwrap()


def test_stop_asks_tasks_to_end_and_waits_for_it(cluster: Cluster) -> None:
    messages: list[Message] = []
    running = cluster.submit(("wait",), wait_for_end, 60.0)
    while Message(("wait",), "line", ("waits",)) not in messages:
        messages.extend(arrival for arrival in cluster._received() if isinstance(arrival, Message))
    cluster.stop(messages.append)
    assert running_tasks() == 0
    assert running.cancelled()


def test_tasks_end_with_the_call_that_is_gone(scheduler: str, tmp_path: Path) -> None:
    """As after its SIGKILL: the scheduler takes back what nobody waits for."""
    messages: list[Message] = []
    with open_cluster(scheduler, tmp_path, print) as cluster:
        cluster.submit(("wait",), wait_for_end, 60.0)
        while not messages:
            messages.extend(arrival for arrival in cluster._received() if isinstance(arrival, Message))
        assert running_tasks() == 1
    until = time.monotonic() + 20
    while running_tasks() and time.monotonic() < until:
        time.sleep(0.05)
    assert running_tasks() == 0


def test_items_come_back_in_their_order(scheduler: str, tmp_path: Path) -> None:
    with in_order_on(scheduler, tmp_path, (), print) as in_order:
        assert list(in_order(abs, range(-9, 0))) == [(number, -number) for number in range(-9, 0)]
        with pytest.raises(OperationError, match="TypeError"):
            list(in_order(abs, ["text"]))


def test_a_plugin_is_loaded_by_the_same_trust_as_locally(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("")
    with pytest.raises(UntrustedPluginError, match="is code, which runs only for a recipe that you train"):
        _loaded((str(plugin),), b"")
    with trusting_plugins(True), pytest.raises(EOFError):  # loaded; then the empty task is read
        _loaded((str(plugin),), b"")


# ------------------------------------------------------------------ refused


def test_no_scheduler_answers(tmp_path: Path) -> None:
    settings = ClusterSettings(address="tcp://127.0.0.1:9", timeout=0.5)
    with (
        pytest.raises(OperationError, match=r"^no scheduler answers at tcp://127\.0\.0\.1:9 \(.*is it running"),
        open_cluster(settings, tmp_path, print),
    ):
        pass
    assert not list(tmp_path.iterdir()), "its mark is gone"


@pytest.mark.parametrize("name", ["torch", "fewstep", "distributed", "python"])
def test_other_versions_of_a_worker_are_told(
    name: str, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checks._packages

    def packages(facts: dict[str, dict[str, str]]) -> dict[str, str | None]:
        own = len(seen) == 0
        seen.append(name)
        return real(facts) if own else {**real(facts), name: "0.0.9"}

    seen: list[str] = []
    monkeypatch.setattr(checks, "_packages", packages)
    with (
        pytest.raises(OperationError, match=f"has {name} 0.0.9, and this command has .*; install the same versions"),
        open_cluster(scheduler, tmp_path, print),
    ):
        pass


def test_other_code_of_a_worker_is_told(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "package_digest", lambda: "other")
    with (
        pytest.raises(OperationError, match=r"^the worker on .* has other code of fewstep than this command"),
        open_cluster(scheduler, tmp_path, print),
    ):
        pass


@pytest.mark.parametrize("unseen", ["folder", "mark", "token"])
def test_a_worker_that_does_not_see_the_folder_is_told(unseen: str, tmp_path: Path) -> None:
    with marked(tmp_path) as (mark, token):
        facts = {"folder": str(tmp_path), "mark": str(mark), "token": token}
        other = {"folder": "/nowhere", "mark": "/nowhere/mark", "token": "of another machine"}
        site = lambda facts: Site(**facts, code=package_digest(), topic="", threads=None, trust_plugins=False)  # noqa: E731
        assert site(facts).problem() is None
        problem = site({**facts, unseen: other[unseen]}).problem()
    folder = tmp_path if unseen == "token" else "/nowhere"
    assert problem
    assert problem.endswith(f"does not see the folder '{folder}'; a cluster needs one that all its machines share")


def test_resources_that_no_worker_has_are_told(scheduler: str, tmp_path: Path) -> None:
    settings = ClusterSettings(address=scheduler, resources={"GPU": 1})
    with (
        pytest.raises(UserError, match=r"^no worker has the resources of the cluster file \(GPU: 1\)"),
        open_cluster(settings, tmp_path, print),
    ):
        pass


def test_a_mark_that_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".cluster-left").write_text("x")
    with marked(tmp_path) as (mark, _), marked(tmp_path) as (other, _):
        assert {file.name for file in tmp_path.iterdir()} == {mark.name, other.name}


def test_keywords_reach_the_class_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for dask_jobqueue, whose workers are threads."""
    distributed, calls = pytest.importorskip("distributed"), []

    class SLURMCluster(distributed.LocalCluster):  # type: ignore[misc,name-defined]
        def __init__(self, **keywords: object) -> None:
            calls.append(keywords)
            if "cores" not in keywords:
                raise ValueError("You must specify how many cores to use")
            super().__init__(
                n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address="127.0.0.1:0"
            )

    stand_in = types.ModuleType("dask_jobqueue")
    stand_in.SLURMCluster = SLURMCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", stand_in)
    settings = ClusterSettings.model_validate({"slurm": {"workers": 2, "cores": 8, "queue": "gpu"}})
    with open_cluster(settings, tmp_path, print) as cluster:
        future = cluster.submit(("square",), square, 2)
        assert cluster.wait(future).value == 4
    assert calls == [{"cores": 8, "queue": "gpu"}]
    wrong = ClusterSettings.model_validate({"slurm": {"queue": "gpu"}})
    with (
        pytest.raises(UserError, match="did not start: `slurm`: You must specify"),
        open_cluster(wrong, tmp_path, print),
    ):
        pass


# ------------------------------------------------------------------ lost


def test_a_scheduler_that_ends_is_told(tmp_path: Path) -> None:
    with local_cluster(1) as own:
        settings = ClusterSettings(address=own.scheduler_address, timeout=1)
        with open_cluster(settings, tmp_path, print) as cluster:
            future = cluster.submit(("wait",), wait_for_end, 5.0)
            threading.Timer(0.3, own.close).start()
            with pytest.raises(OperationError, match=r"^the cluster's scheduler is gone; what is complete is stored"):
                [cluster.outcome(ended) for ended in cluster.outcomes([future], ignore)]
            cluster.stop()


def test_the_loss_of_all_workers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.1)
    with local_cluster(1) as own:
        settings = ClusterSettings(address=own.scheduler_address, timeout=1)
        with open_cluster(settings, tmp_path, print) as cluster:
            own.scale(0)
            future = cluster.submit(("square",), square, 2)
            with pytest.raises(OperationError, match=r"^all workers of the cluster are lost, for 1 s"):
                list(cluster.outcomes([future], ignore))


@pytest.mark.medium
def test_a_task_whose_worker_dies_runs_again(tmp_path: Path) -> None:
    """On processes of this machine, as often as the file says; processes and their signals are ours."""
    (tmp_path / "once").mkdir()
    (tmp_path / "often").mkdir()
    settings = ClusterSettings.model_validate({"local": {"workers": 2, "threads": 1}, "retries": 1})
    with open_cluster(settings, tmp_path, print) as cluster:
        once = cluster.submit(("once",), die, tmp_path / "once", 1, computes=False)
        assert cluster.wait(once).value == "alive after 1"
        often = cluster.submit(("often",), die, tmp_path / "often", 5, computes=False)
        assert cluster.wait(often).error == "its worker died again and again; was there too little memory?"
    assert len(list((tmp_path / "often").glob("*"))) == 2


@pytest.mark.medium
def test_local_workers_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    """And the next command removes the mark that it left."""
    program = (
        "import os, time\nfrom pathlib import Path\n"
        "from fewstep.cluster.cluster import open_cluster\nfrom fewstep.cluster.settings import ClusterSettings\n"
        "if __name__ == '__main__':\n"
        "    settings = ClusterSettings.model_validate({'local': {'workers': 1, 'threads': 1}})\n"
        f"    with open_cluster(settings, Path({str(tmp_path)!r}), lambda line: None) as cluster:\n"
        "        print(*cluster._client.run(os.getpid).values(), flush=True)\n"
        "        time.sleep(600)\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 60
    while _runs(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _runs(worker)
    assert len(list(tmp_path.glob(".cluster-*"))) == 1
    with marked(tmp_path) as (mark, _):
        assert list(tmp_path.glob(".cluster-*")) == [mark]


def _runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_without_the_option_no_dask_is_imported() -> None:
    code = (
        "import sys\nfrom fewstep.cli import main\nfrom fewstep.cluster import settings\n"
        "assert not {'dask', 'distributed', 'torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
