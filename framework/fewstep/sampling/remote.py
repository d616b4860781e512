"""What a worker of a cluster runs for a job of samples: one range of numbers, stored in the job's folder."""

from __future__ import annotations

from pathlib import Path

from fewstep.cluster.worker import Report
from fewstep.denoisers.compiled import compile_trunks
from fewstep.runtime.signals import end_is_asked
from fewstep.sampling.folder import JobFolder, missing_in
from fewstep.sampling.job import Job, prepare, store_ranges
from fewstep.sampling.request import SampleRequest

_jobs: dict[str, Job] = {}
"""The job of the last range, by the call that it belongs to."""


def draw_range(report: Report, call: str, run: str, request: SampleRequest, path: Path, numbers: range) -> str:
    """Draw the samples with these numbers, without those that an earlier try has stored; returns the device's type.

    Args:
        call: unique name of the command's call.
        path: folder of the job.

    Raises:
        UserError: the model is not the one that the job began with.
        KeyboardInterrupt: it was asked to end; complete batches are stored.
    """
    job = _job(call, run, request)
    folder = JobFolder(path, job.facts, request.count)
    folder.enter()

    def stored(count: int) -> None:
        report("stored", count)
        if end_is_asked():
            raise KeyboardInterrupt

    store_ranges(folder, job, list(missing_in(numbers, folder.stored_numbers())), len(numbers), stored)
    return job.denoiser.device.type


def _job(call: str, run: str, request: SampleRequest) -> Job:
    if call not in _jobs:
        _jobs.clear()
        job = prepare(run, request)
        device = job.denoiser.device
        compile_trunks(job.denoiser, request.compile, device, "the network", lambda line: None, graphs=True)
        _jobs[call] = job
    return _jobs[call]
