"""What `--cluster` names: the address of a scheduler, or a YAML file of a cluster to start. Loads no Dask."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from fewstep.core.component import Strict, custom_error
from fewstep.core.errors import UserError
from fewstep.recipe import validate_file
from fewstep.recipe.shipped import is_path

_ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx)://[^\s/]+:\d{1,5}")
_KINDS = ("local", "slurm", "kubernetes", "address")
_PACKAGES = {"slurm": ("dask_jobqueue", "dask-jobqueue"), "kubernetes": ("dask_kubernetes", "dask-kubernetes")}
"""Module and distribution that a kind of cluster needs beside Dask."""


class LocalWorkers(Strict):
    """Worker processes on this machine."""

    workers: int = Field(2, ge=1, le=1024, description="number of worker processes")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of a task; null divides those of the machine")
    memory: str | int = Field("auto", description='limit of a worker ("4GB"); auto divides the machine\'s, 0 has none')


class JobWorkers(Strict):
    """Workers that a queue or an operator starts; all further keys are keywords of Dask's class."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    workers: int = Field(1, ge=1, le=100_000, description="number of workers to ask for")
    threads: int | None = Field(None, ge=1, le=1024, description="threads of a task; null leaves torch's own number")

    @property
    def keywords(self) -> dict[str, object]:
        """The keys that are not ours."""
        return dict(self.model_extra or {})


class ClusterSettings(Strict):
    """A cluster file: one of `local`, `slurm`, `kubernetes` and `address`, and how tasks run on it."""

    local: LocalWorkers | None = Field(None, description="worker processes on this machine")
    slurm: JobWorkers | None = Field(None, description="jobs of Slurm: keywords of dask_jobqueue.SLURMCluster")
    kubernetes: JobWorkers | None = Field(
        None, description="pods of Kubernetes: keywords of dask_kubernetes.operator.KubeCluster"
    )
    address: str | None = Field(None, description="address of a running scheduler, such as tcp://HOST:8786")
    resources: dict[str, float] = Field(
        default_factory=dict,
        description="what a task that trains or draws takes of its worker, such as {GPU: 1}; local workers have it",
    )
    retries: int | None = Field(
        None, ge=0, le=100, description="further tries of a task whose worker died; 3 if left out"
    )
    timeout: float = Field(60.0, gt=0, le=86_400, description="seconds in which a scheduler, or a worker, must appear")

    @model_validator(mode="after")
    def _one_kind(self) -> ClusterSettings:
        names = [name for name in _KINDS if getattr(self, name) is not None]
        if len(names) != 1:
            text = f"{' and '.join(names)} exclude each other" if names else "nothing says where the workers are"
            raise custom_error("cluster_kind", f"{text}; write one of {', '.join(_KINDS)}")
        if self.address is not None and not _ADDRESS.fullmatch(self.address):
            raise custom_error("address", f"address should be one such as tcp://HOST:8786, not '{self.address[:80]}'")
        if self.retries is not None and self.kind in ("address", "kubernetes"):
            key = "distributed.scheduler.allowed-failures"
            raise custom_error("retries", f"retries: the scheduler has a setting of its own for it, {key}")
        return self

    @property
    def allowed_failures(self) -> int:
        """Further tries of a task whose worker died."""
        return 3 if self.retries is None else self.retries

    @property
    def kind(self) -> str:
        return next(name for name in _KINDS if getattr(self, name) is not None)

    @property
    def threads(self) -> int | None:
        """Threads of a task; None leaves a worker's own number."""
        section = self.local or self.slurm or self.kubernetes
        return section.threads if section else None


def load_cluster(source: str) -> ClusterSettings:
    """Settings of a file, or of an address. Checks that the packages which they need are installed.

    Raises:
        RecipeError: all problems of the file.
        UserError: it is neither a file nor an address, or a package is missing.
    """
    if Path(source).is_file() or is_path(source):
        settings = validate_file(source, ClusterSettings)
    elif _ADDRESS.fullmatch(source):
        settings = ClusterSettings(address=source)
    else:
        raise UserError(f"--cluster: '{source}' is neither a file nor an address such as tcp://HOST:8786")
    for module in ("distributed", "cryptography"):
        if find_spec(module) is None:
            raise UserError(f"--cluster needs the package '{module}': pip install 'fewstep[cluster]'")
    module, package = _PACKAGES.get(settings.kind, ("distributed", ""))
    if find_spec(module) is None:
        raise UserError(f"{source}: `{settings.kind}` needs the package '{package}': pip install {package}")
    return settings
