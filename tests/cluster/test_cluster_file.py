"""What `--cluster` names: files and addresses, and a sentence for each mistake in them."""

from __future__ import annotations

import importlib.machinery
import re
from pathlib import Path
from typing import Any

import pytest

from fewstep.cluster import settings as module
from fewstep.cluster.settings import ClusterSettings, load_cluster
from fewstep.core.errors import UserError

ADDRESS = "tcp://127.0.0.1:8786"


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the packages that are there, whatever this machine has."""
    names = {"distributed", "cryptography", "dask_jobqueue", "dask_kubernetes"}
    spec = importlib.machinery.ModuleSpec("any", None)
    monkeypatch.setattr(module, "find_spec", lambda name: spec if name in names else None)
    return names


def write(folder: Path, text: str) -> str:
    (folder / "c.yaml").write_text(text)
    return str(folder / "c.yaml")


def test_an_address_is_a_cluster(tmp_path: Path) -> None:
    assert (
        load_cluster(ADDRESS)
        == ClusterSettings(address=ADDRESS)
        == load_cluster(write(tmp_path, f"address: {ADDRESS}"))
    )


def test_keys_of_jobs_are_keywords_of_their_class(tmp_path: Path) -> None:
    text = "slurm: {workers: 4, threads: 8, queue: gpu, cores: 8, memory: 32GB}\nresources: {GPU: 1}\nretries: 2\n"
    settings = load_cluster(write(tmp_path, text))
    assert settings.slurm
    assert settings.slurm.keywords == {"queue": "gpu", "cores": 8, "memory": "32GB"}
    assert (settings.kind, settings.threads, settings.slurm.workers) == ("slurm", 8, 4)
    assert (settings.resources, settings.allowed_failures) == ({"GPU": 1.0}, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "nothing says where the workers are; write one of local, slurm, kubernetes, address"),
        (f"local: {{}}\naddress: {ADDRESS}", "local and address exclude each other"),
        ("address: here", "address should be one such as tcp://HOST:8786, not 'here'"),
        (f"address: {ADDRESS}\nretries: 1", "retries: the scheduler has a setting of its own"),
        ("local: {workers: 0}", "c.yaml:1: local.workers: should be greater than or equal to 1"),
        ("local: {worker: 2}", "unknown key 'worker'; did you mean 'workers'?"),
        ("locale: {}", "unknown key 'locale'; did you mean 'local'?"),
        ("local: {}\ntimeout: 0", "c.yaml:2: timeout: should be greater than 0"),
        ("local: {}\nresources: [GPU]", "should be keys with values"),
        ("local: {}\nretries: !!python/object:os.system {}", "c.yaml:2"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_cluster(write(tmp_path, text))
    assert message in str(caught.value)
    assert "c.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("source", ["somewhere", "127.0.0.1:8786", "http://127.0.0.1:8786", "tcp://host"])
def test_neither_file_nor_address(source: str) -> None:
    with pytest.raises(UserError, match="is neither a file nor an address such as tcp://HOST:8786"):
        load_cluster(source)


def test_files_of_the_manual_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    files = [text for text in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if "fewstep " not in text]
    kinds = [load_cluster(write(tmp_path, text)).kind for text in files]
    assert kinds == ["local", "slurm", "kubernetes", "address"]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_cluster(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "package", "advice"),
    [
        ("local: {}", "distributed", "--cluster needs the package 'distributed': pip install 'fewstep[cluster]'"),
        ("slurm: {}", "dask_jobqueue", "`slurm` needs the package 'dask-jobqueue': pip install dask-jobqueue"),
        ("kubernetes: {}", "dask_kubernetes", "`kubernetes` needs the package 'dask-kubernetes': pip install"),
    ],
)
def test_a_missing_package_is_told(text: str, package: str, advice: str, installed: set[str], tmp_path: Path) -> None:
    installed.remove(package)
    with pytest.raises(UserError) as caught:
        load_cluster(write(tmp_path, text))
    assert advice in str(caught.value)


def test_a_file_runs_no_code(tmp_path: Path) -> None:
    marker: Any = tmp_path / "ran"
    with pytest.raises(UserError):
        load_cluster(write(tmp_path, f"local: !!python/object/apply:os.mkdir ['{marker}']"))
    assert not marker.exists()
