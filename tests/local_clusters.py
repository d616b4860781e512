"""Dask clusters within the process of a test."""

from __future__ import annotations

from typing import Any

import pytest


def local_cluster(workers: int, **settings: Any) -> Any:
    """A cluster of threads of this process, to be closed by a `with` block; skips the test without Dask."""
    distributed = pytest.importorskip("distributed")
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        **settings,
    )
