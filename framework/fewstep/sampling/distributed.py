"""A job of samples on a cluster: its workers draw ranges of numbers and store them in the job's folder."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from fewstep.cluster.cluster import Cluster, Message, open_cluster
from fewstep.cluster.settings import load_cluster
from fewstep.core.errors import UserError
from fewstep.runtime.progress import Narrator
from fewstep.sampling.folder import JobFolder
from fewstep.sampling.job import Job, missing_ranges, sample_run
from fewstep.sampling.remote import draw_range
from fewstep.sampling.request import SampleRequest


def sample_on_cluster(cluster: str, run: str, request: SampleRequest, say: Callable[[str], None]) -> Path:
    """Draw samples from a run into a folder with the workers of a cluster; see `sampling.job.sample_run`.

    Args:
        cluster: cluster file or address of a scheduler.

    Raises:
        UserError: `cluster` is neither, or the request is for a share of the samples.
        OperationError: the cluster is gone, or cannot take part.
    """
    if request.part.of > 1:
        raise UserError("--part and --cluster exclude each other")
    settings = load_cluster(cluster)

    def fill(folder: JobFolder, job: Job, size: int) -> str:
        ranges = missing_ranges(folder, request.part, size)
        with open_cluster(settings, folder.path, say) as workers:
            try:
                return _draw(workers, run, request, folder, job, ranges)
            except BaseException:
                workers.stop()
                raise

    return sample_run(run, request, say=say, fill=fill)


def _draw(cluster: Cluster, run: str, request: SampleRequest, folder: JobFolder, job: Job, ranges: list[range]) -> str:
    """Draw ranges of samples; the device's type of the last one.

    Raises:
        UserError, OperationError: a range cannot be drawn.
    """
    total, count = sum(map(len, ranges)), 0
    progress = Narrator(f"{job.steps} steps")

    def receive(message: Message) -> None:
        nonlocal count
        count = min(total, count + int(message.arguments[0] or 0))
        progress(count, total)

    call, device = secrets.token_hex(4), job.denoiser.device.type
    futures = [
        cluster.submit(
            ("draw", f"{numbers.start}-{numbers.stop - 1}"), draw_range, call, run, request, folder.path, numbers
        )
        for numbers in ranges
    ]
    for future in cluster.outcomes(futures, receive):
        device = str(cluster.outcome(future).unwrap())
    return device
