"""Checks of a cluster before the first task: versions, code, folder and resources of its workers."""

from __future__ import annotations

from collections.abc import Mapping

from distributed import Client

from fewstep.cluster.worker import Site, inspect
from fewstep.core.errors import OperationError, UserError
from fewstep.core.version import __version__

_COMPARED = ("python", "distributed", "torch", "fewstep")


def check_versions(client: Client) -> None:
    """Check that scheduler and workers have this process's versions.

    Raises:
        OperationError: one has another version; the message names it.
    """
    found = client.get_versions(packages=["torch", "fewstep"])
    own = {**_packages(found["client"]), "fewstep": __version__}
    places = {f"the worker {address}": _packages(facts) for address, facts in found["workers"].items()}
    checks = [(place, name, versions) for place, versions in places.items() for name in _COMPARED]
    checks.append(("the scheduler", "distributed", _packages(found["scheduler"])))
    for place, name, versions in checks:
        if versions.get(name) != own.get(name):
            state = f"{name} {versions[name]}" if versions.get(name) else f"no {name}"
            raise OperationError(
                f"{place} has {state}, and this command has {own.get(name)}; install the same versions on both"
            )


def _packages(facts: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
    """Versions by name; of Python only the part that decides whether processes understand each other."""
    packages: dict[str, str | None] = dict(facts["packages"])
    python = packages.get("python")
    return {**packages, "python": python and ".".join(python.split(".")[:2])}


def check_workers(client: Client, site: Site, resources: Mapping[str, float]) -> None:
    """Check that all workers share code and folder with this process, and that one has the resources.

    Raises:
        OperationError: a worker has other code, or does not see the folder.
        UserError: no worker has the resources.
    """
    for facts in client.run(inspect, site).values():
        if facts["problem"]:
            raise OperationError(facts["problem"])
    if not resources:
        return
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if not any(
        all(worker["resources"].get(name, 0) >= amount for name, amount in resources.items()) for worker in workers
    ):
        listed = ", ".join(f"{name}: {amount:g}" for name, amount in resources.items())
        raise UserError(f"no worker has the resources of the cluster file ({listed}); start workers with --resources")
