"""Settings that every test shares."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from local_clusters import local_cluster
from short_runs import train as train


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a Dask scheduler with two workers, all in this process."""
    with local_cluster(2, silence_logs=logging.CRITICAL) as cluster:
        yield cluster.scheduler_address
