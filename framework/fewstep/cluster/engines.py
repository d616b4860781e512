"""Dask's clusters: processes of this machine, jobs of Slurm, pods of Kubernetes, or a scheduler that runs already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from fewstep.cluster.settings import ClusterSettings, JobWorkers, LocalWorkers
from fewstep.core.errors import FewstepError, OperationError, UserError

_DASHBOARD = 8787
_CLOSE_SECONDS = 30


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Client]:
    """A client of the cluster. What was started for it ends with the block.

    Raises:
        UserError: Dask refuses the settings.
        OperationError: the scheduler does not answer, or no worker appears within `timeout` seconds.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        target = settings.address or stack.enter_context(_started(settings))
        try:
            client = Client(target, timeout=settings.timeout, set_as_default=False)
        except (OSError, TimeoutError) as error:
            text = f"no scheduler answers at {settings.address or 'the address of the new cluster'}"
            raise OperationError(f"{text} ({_short(error)}); is it running, and can this machine reach it?") from None
        except ValueError as error:
            raise UserError(f"--cluster: {_short(error)}") from None
        stack.callback(_closed, client)
        _wait_for_workers(client, settings)
        yield client


def _wait_for_workers(client: Client, settings: ClusterSettings) -> None:
    count = settings.local.workers if settings.local else 1
    try:
        client.wait_for_workers(count, timeout=settings.timeout)
    except (TimeoutError, OSError):
        state = "no worker" if count == 1 else f"not all of {count} workers"
        advice = "start some, or raise `timeout` in the cluster file"
        raise OperationError(f"{state} came to the cluster within {settings.timeout:g} s; {advice}") from None


@contextmanager
def _started(settings: ClusterSettings) -> Iterator[object]:
    """A new cluster of the file's kind."""
    with dask.config.set({"distributed.scheduler.allowed-failures": settings.allowed_failures}):
        try:
            if settings.local:
                cluster = _local(settings.local, settings.resources)
            elif settings.slurm:
                from dask_jobqueue import SLURMCluster

                cluster = SLURMCluster(**settings.slurm.keywords)
            else:
                from dask_kubernetes.operator import KubeCluster

                assert settings.kubernetes
                cluster = KubeCluster(**settings.kubernetes.keywords)
        except FewstepError:
            raise
        except Exception as error:  # of three packages and of the programs that they call
            fault = UserError if isinstance(error, TypeError | ValueError) else OperationError
            raise fault(f"the cluster did not start: `{settings.kind}`: {_short(error)}") from None
    try:
        if jobs := settings.slurm or settings.kubernetes:
            _scale(cluster, jobs)
        yield cluster
    finally:
        _closed(cluster)


def _local(section: LocalWorkers, resources: dict[str, float]) -> LocalCluster:
    """Processes of this machine. What they exchange is encrypted with a key of this call.

    Without it any other user of the machine could send code to the open port.
    """
    return LocalCluster(
        n_workers=section.workers,
        threads_per_worker=1,
        host="127.0.0.1",
        memory_limit=section.memory,
        resources=resources,
        security=Security.temporary(),
        dashboard_address=f"127.0.0.1:{_free_port() if has_dashboard() else 0}",
        silence_logs=False if _debugs() else logging.CRITICAL,
    )


def _scale(cluster: LocalCluster, jobs: JobWorkers) -> None:
    cluster.scale(jobs.workers)


def has_dashboard() -> bool:
    """Whether a scheduler of this process serves a dashboard."""
    return find_spec("bokeh") is not None


def _free_port() -> int:
    """Dask's usual port, or any other one if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _DASHBOARD))
        except OSError:
            return 0
        return _DASHBOARD


def _closed(part: Client | LocalCluster) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):
        part.close(timeout=_CLOSE_SECONDS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log from the console; what matters is said in sentences. FEWSTEP_DEBUG=1 shows it."""
    logger = logging.getLogger("distributed")
    level = logger.level
    if not _debugs():
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _debugs() -> bool:
    return os.environ.get("FEWSTEP_DEBUG") == "1"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
