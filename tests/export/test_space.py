"""A demo as a Space of the Hub, by a stand-in: nothing here uses a network."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.cli.main import main
from fewstep.core.errors import UserError
from fewstep.core.version import __version__
from fewstep.export.space import push_space, write_space
from fewstep.runs.exported import Exported
from fewstep.runs.shipped import FOLDER

PAIR = ["digits-teacher", "digits-dmmd"]


class Hub:
    """Keeps what is uploaded in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def create_repo(self, **options: Any) -> None:
        self.calls.append(options)

    def upload_folder(self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str) -> None:
        assert repo_type == "space"
        shutil.copytree(folder_path, self.root / repo_id)


def test_a_space_holds_page_and_models(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    assert push_space(PAIR, "me/digits", private=True, api=hub) == "https://huggingface.co/spaces/me/digits"
    assert hub.calls == [
        {"repo_id": "me/digits", "private": True, "exist_ok": True, "repo_type": "space", "space_sdk": "gradio"}
    ]
    folder = tmp_path / "me/digits"
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    assert header["sdk_version"].count(".") == 2
    assert (folder / "requirements.txt").read_text() == f"fewstep[demo]=={__version__}\n"
    names = [
        node.value for node in ast.walk(ast.parse((folder / "app.py").read_text())) if isinstance(node, ast.Constant)
    ]
    for name in PAIR:
        assert f"models/{name}" in names
        assert Exported(folder / "models" / name).config.name == name


def test_a_dry_run_lists_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", *PAIR, "--repo", "me/digits", "--space", "--dry-run"])
    assert ended.value.code == 0
    *lines, last = capsys.readouterr().out.splitlines()
    (tmp_path / "space").mkdir()
    assert [line.split()[-1] for line in lines] == write_space(PAIR, tmp_path / "space")
    assert last == "would be pushed to https://huggingface.co/spaces/me/digits"


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="two of the models are called 'digits-dmmd'"):
        write_space([str(FOLDER / "digits-dmmd"), "digits-dmmd"], tmp_path)
    with pytest.raises(UserError, match="'nowhere' holds no exported model"):
        write_space(["nowhere"], tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["push", *PAIR, "--repo", "me/digits"])
    assert ended.value.code == 2
    assert "a repository holds one model, not 2; push each alone, or all with --space" in capsys.readouterr().err
