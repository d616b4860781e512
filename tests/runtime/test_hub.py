"""The Hugging Face Hub, by stand-ins: nothing here uses a network."""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep import Pipeline
from fewstep.cli.main import main
from fewstep.core.errors import FewstepError, OperationError, UserError
from fewstep.export.hub import push
from fewstep.export.write import export_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runtime.hub import fetch
from fewstep.training.launch import fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub")
    fit(load_recipe("smoke-teacher", ["train.steps=2"]), RunDir(place / "run"), echo=lambda line: None)
    return export_run(str(place / "run"), str(place / "out"))


class FakeHub:
    """Keeps repositories in a folder, as `HfApi` and `snapshot_download` would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}
        self.asked: list[tuple[str, str | None]] = []

    def create_repo(self, *, repo_id: str, private: bool, exist_ok: bool, repo_type: str) -> None:
        assert exist_ok
        assert repo_type == "model"
        self.private[repo_id] = private

    def upload_folder(
        self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str, allow_patterns: list[str]
    ) -> None:
        assert repo_id in self.private
        assert "step 2" in commit_message
        files = [file.relative_to(folder_path) for file in Path(folder_path).rglob("*") if file.is_file()]
        assert {file.as_posix() for file in files} == set(allow_patterns)
        shutil.copytree(folder_path, self.root / repo_id)

    def snapshot_download(self, *, repo_id: str, revision: str | None, allow_patterns: tuple[str, ...]) -> str:
        self.asked.append((repo_id, revision))
        return str(self.root / repo_id)


def test_what_is_pushed_is_what_is_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(tmp_path)
    assert push(folder, "me/few", private=True, api=hub) == "https://huggingface.co/me/few"
    assert hub.private == {"me/few": True}
    assert (tmp_path / "me/few/README.md").read_text() == (folder / "README.md").read_text()
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
    theirs = Pipeline.from_pretrained("me/few", revision="v1", device="cpu").sample(3, steps=2, seed=1)
    ours = Pipeline.from_pretrained(folder, device="cpu").sample(3, steps=2, seed=1)
    assert theirs.tokens.equal(ours.tokens)
    assert hub.asked == [("me/few", "v1")]


def test_a_dry_run_lists_what_is_pushed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", str(folder), "--repo", "me/few", "--dry-run"])
    assert ended.value.code == 0
    *lines, last = capsys.readouterr().out.splitlines()
    hub = FakeHub(tmp_path)
    push(folder, "me/few", api=hub)
    pushed = {str(file.relative_to(tmp_path / "me/few")) for file in (tmp_path / "me/few").rglob("*") if file.is_file()}
    assert {line.split()[-1] for line in lines} == pushed
    assert last == "would be pushed to https://huggingface.co/me/few"


def failing(name: str, base: type[Exception] = Exception, status: int | None = None) -> Any:
    """A Hub that raises an error of this name, as huggingface_hub's are told apart."""
    error = type(name, (base,), {})("Something. \nMore of it.")
    if status is not None:
        error.response = types.SimpleNamespace(status_code=status)  # type: ignore[attr-defined]

    def fail(**_: Any) -> None:
        raise error

    return types.SimpleNamespace(create_repo=fail, upload_folder=fail, snapshot_download=fail)


@pytest.mark.parametrize(
    ("hub", "kind", "told"),
    [
        (
            failing("LocalTokenNotFoundError", OSError),
            UserError,
            "not logged in, or not allowed to; run `hf auth login`",
        ),
        (failing("HfHubHTTPError", status=401), UserError, "not logged in"),
        (failing("HfHubHTTPError", status=403), UserError, "this account may not"),
        (failing("RepositoryNotFoundError", status=404), UserError, "no such model, revision, or access to it"),
        (failing("HFValidationError", ValueError), UserError, r"expected OWNER/NAME \(Something\)"),
        (failing("OfflineModeIsEnabled", ConnectionError), OperationError, "the Hugging Face Hub cannot be reached"),
        (failing("ConnectError"), OperationError, "cannot be reached"),
        (failing("HfHubHTTPError", status=500), OperationError, r"Something$"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: Any, kind: type[FewstepError], told: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(kind, match=told) as error:
        push(folder, "me/few", api=hub)
    assert str(error.value).startswith("cannot push to 'me/few': ")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(kind, match=told):
        fetch("me/few")


def test_a_mistake_of_ours_is_not_hidden(folder: Path) -> None:
    with pytest.raises(KeyError):
        push(folder, "me/few", api=failing("Odd", KeyError))


def test_without_the_package_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    calls: list[Callable[[], Any]] = [lambda: push(folder, "me/few"), lambda: Pipeline.from_pretrained("me/few")]
    for call in calls:
        with pytest.raises(UserError, match=r"needs the package huggingface_hub: pip install 'fewstep\[hub\]'"):
            call()


def test_only_whole_exports_are_pushed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no exported model"):
        push(tmp_path, "me/few", api=FakeHub(tmp_path))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").unlink()
    with pytest.raises(UserError, match="has no card"):
        push(copy, "me/few", api=FakeHub(tmp_path))


def test_the_real_package_is_told_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="pip install 'fewstep[hub]'")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OperationError, match="fewstep-test/none', which is no folder here: the Hugging Face Hub cannot"
    ):
        fetch("fewstep-test/none")
