"""The models inside the package: by name, by digest, and without a network."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from fewstep import Pipeline
from fewstep.cli.lists import model_names
from fewstep.cli.main import main
from fewstep.core.errors import UserError
from fewstep.runs import shipped
from fewstep.runs.local import find_named, local_model
from fewstep.runs.models import open_model
from fewstep.runs.shipped import FOLDER, Manifest, manifest, model_path
from fewstep.runtime.hashing import sha256

LIMIT = 6_000_000
STUDENT = "digits-dmmd"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and no network."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a shipped model asked the network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return ended.value.code, *capsys.readouterr()


def test_every_file_has_its_digest() -> None:
    files = {file for file in FOLDER.rglob("*") if file.is_file() and file.name != shipped.MANIFEST}
    listed = {
        FOLDER / name / file: digest
        for name, model in manifest().models.items()
        for file, digest in model.files.items()
    }
    assert files == set(listed)
    assert all(sha256(file) == digest for file, digest in listed.items())
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= LIMIT
    assert {"digits-teacher", STUDENT} <= manifest().models.keys()


@pytest.mark.parametrize("name", sorted(manifest().models))
def test_every_model_samples(name: str) -> None:
    model = manifest().models[name]
    ours = Pipeline.from_pretrained(name, device="cpu")
    theirs = Pipeline.from_pretrained(f"fewstep/{name}", device="cpu")
    assert ours.model.digest == model.weights_digest or ours.model.recipe.name == name
    assert ours.sample(2, steps=2, seed=1).tokens.equal(theirs.sample(2, steps=2, seed=1).tokens)
    card = (FOLDER / name / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert f'from_pretrained("fewstep/{name}")' in card
    assert f"`fewstep benchmark {model.suite}`" in card
    assert "Nothing was measured" not in card


def test_one_command_shows_samples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "sample", STUDENT, "-n", "5", "--steps", "2")
    assert (code, err) == (0, "")
    *rows, last = out.splitlines()
    sheet = Path(f"runs/fewstep--{STUDENT}/samples/steps2-seed0-n5/samples.png")
    assert last == f"wrote {sheet} (258 x 54 pixels)"
    assert len(rows) == 8  # the pixels of a digit, five digits beside each other
    assert any("@" in row or "#" in row for row in rows)
    assert sheet.exists()
    _, again, _ = run(capsys, "sample", f"fewstep/{STUDENT}", "-n", "5", "--steps", "2")
    assert again.splitlines() == [*rows, last.replace("wrote", "found") + ", drawn before with these settings"]


def test_a_folder_here_wins(tmp_path: Path) -> None:
    assert model_path(STUDENT) == FOLDER / STUDENT
    (tmp_path / STUDENT).mkdir()
    assert model_path(STUDENT) == Path(STUDENT)
    with pytest.raises(UserError, match="is not a run folder"):
        open_model(STUDENT)
    (tmp_path / "fewstep").mkdir()  # such as a checkout's
    assert local_model(f"fewstep/{STUDENT}") == FOLDER / STUDENT
    shutil.copytree(FOLDER / "digits-teacher", tmp_path / "fewstep" / STUDENT)
    assert find_named(f"fewstep/{STUDENT}").recipe.name == "digits-teacher"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("digits-dmd", "did you mean 'digits-dmmd'?"), ("xyz", "`fewstep models` lists those that need no training")],
)
def test_a_name_of_nothing_gets_a_suggestion(capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    for command in ("sample", "evaluate"):
        code, out, err = run(capsys, command, name)
        assert (code, out) == (2, "")
        assert err == f"error: '{name}' is no model: no folder or file here, and no OWNER/NAME of the Hub; {hint}\n"


class Hub:
    """The Hub with one repository."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def snapshot_download(self, *, repo_id: str, revision: str | None, allow_patterns: Any) -> str:
        self.asked.append(repo_id)
        return str(self.folder)


def test_what_is_not_here_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, real, bare = Hub(tmp_path / "cache"), FOLDER, tmp_path / "bare"
    shutil.copytree(real / STUDENT, hub.folder)
    bare.mkdir()
    shutil.copy(real / shipped.MANIFEST, bare)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(shipped, "FOLDER", bare)
    for name in (STUDENT, f"fewstep/{STUDENT}"):
        source = find_named(name)
        assert source.recipe.name == STUDENT
        assert source.run.path == Path(f"runs/fewstep--{STUDENT}")
    assert hub.asked == [f"fewstep/{STUDENT}"] * 2
    (hub.folder / "README.md").write_text("another card")
    with pytest.raises(UserError, match=r"is not the model of this version of fewstep \(README.md differs\)"):
        find_named(STUDENT)
    assert local_model(STUDENT, revision="main") == hub.folder  # whoever names a revision gets it


def test_an_unknown_name_of_ours_is_looked_up_and_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[hub\]'; did you mean 'digits-dmmd'\?"):
        Pipeline.from_pretrained("fewstep/digits-dmm")


def test_the_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert all(name in out for name in manifest().models)
    assert out.splitlines()[-1].startswith("next: fewstep sample digits-dmmd ")
    rows = json.loads(run(capsys, "models", "--json")[1])
    assert [row["name"] for row in rows] == list(manifest().models)
    assert all(Path(row["path"]).is_dir() for row in rows)
    monkeypatch.setattr(shipped, "manifest", Manifest)
    assert "(none)" in run(capsys, "models")[1]


def test_a_shipped_teacher_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    sets = [part for value in ("train.steps=1", "train.batch_size=2") for part in ("--set", value)]
    code, _, err = run(capsys, "distill", "digits-dmmd", "--teacher", "digits-teacher", "--run-dir", "mine", *sets)
    assert (code, err) == (0, "")
    assert f"run: {FOLDER / 'digits-teacher'}" in Path("mine/recipe.resolved.yaml").read_text()
    assert open_model("mine").recipe.name == STUDENT


def test_completion_knows_models_and_paths(tmp_path: Path) -> None:
    (tmp_path / "digits.txt").touch()
    assert model_names("digits-d") == ["digits-dmmd"]
    assert model_names("digits") == ["digits-dmmd", "digits-teacher", "digits.txt"]
