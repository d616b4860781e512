"""`validate`, `schema` and `cp`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.bench.suites.loading import load_suite
from fewstep.cli.main import main
from fewstep.recipe import load_recipe, shipped

RECIPE = "name: small\ndata: coins\nprocess: masked\nbackbone: transformer\nobjective: denoising\ntrain: {steps: 10}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("bad.yaml").write_text(RECIPE.replace("coins", "coinz"))


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code, *capsys.readouterr()


def test_validate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "validate", "small.yaml") == (0, "ok small (small.yaml)\n", "")
    assert run(capsys, "validate", "small.yaml", "--set", "name=big")[1] == "ok big (small.yaml)\n"


def test_validate_goes_on_after_a_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate", "bad.yaml", "small.yaml", "none.yaml")
    assert (code, out) == (2, "ok small (small.yaml)\n")
    first, second, count = err.splitlines()
    assert first.startswith("bad.yaml:2: data: no dataset named 'coinz'; did you mean 'coins'?")
    assert (second, count) == ("none.yaml: no such file", "2 problems")


def test_validate_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate", "small.yaml", "none.yaml", "--json")
    assert (code, err) == (2, "")
    assert json.loads(out) == [
        {"source": "small.yaml", "ok": True, "name": "small", "problems": []},
        {
            "source": "none.yaml",
            "ok": False,
            "problems": [{"source": "none.yaml", "line": None, "key": "", "message": "no such file"}],
        },
    ]
    assert run(capsys, "validate", "small.yaml", "--json")[0] == 0


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "schema")
    assert code == 0
    assert run(capsys, "schema", "--out", ".schema/recipe.json") == (0, "wrote .schema/recipe.json\n", "")
    assert json.loads(out) == json.loads(Path(".schema/recipe.json").read_text())
    assert json.loads(out)["title"] == "fewstep recipe"


def test_cp_keeps_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    Path("commented.yaml").write_text("# why\n" + RECIPE)
    assert run(capsys, "cp", "commented.yaml", "new/mine.yaml") == (0, "wrote new/mine.yaml\n", "")
    assert Path("new/mine.yaml").read_text() == "# why\n" + RECIPE


def test_cp_refuses_to_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "cp", "small.yaml", "bad.yaml")
    assert (code, err) == (2, "error: 'bad.yaml' exists; name another file, or replace it with --force\n")
    assert "coinz" in Path("bad.yaml").read_text()
    assert run(capsys, "cp", "small.yaml", "bad.yaml", "--force")[0] == 0
    assert Path("bad.yaml").read_text() == RECIPE


def test_cp_into_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    assert run(capsys, "cp", "small.yaml", "folder")[1] == "wrote folder/small.yaml\n"


def test_cp_of_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "cp", "no-such-recipe", "x.yaml")[0] == 2
    Path("broken.yaml").write_text("a: [\n")
    assert run(capsys, "cp", "broken.yaml", "x.yaml")[0] == 2
    assert not Path("x.yaml").exists()


def test_cp_suggests_recipes_and_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no shipped suite named 'quikstart'; did you mean 'quickstart'?" in run(capsys, "cp", "quikstart", "x")[2]
    assert (
        "no shipped recipe named 'digits-dmd'; did you mean 'digits-dmmd'?" in run(capsys, "cp", "digits-dmd", "x")[2]
    )


def test_cp_points_to_the_same_base_and_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/plugin one.py").write_text("")
    Path("deep/er/two.py").write_text("")
    text = "extends: ../../small.yaml  # the base\nplugins: ['./plugin one.py', ./two.py]\n"
    Path("deep/er/top.yaml").write_text(text)
    assert run(capsys, "cp", "deep/er/top.yaml", "deep/copy.yaml")[0] == 0
    copied = Path("deep/copy.yaml").read_text()
    assert copied == 'extends: ../small.yaml  # the base\nplugins: ["./er/plugin one.py", ./er/two.py]\n'
    copy, original = (load_recipe(path, trust_plugins=True).recipe for path in ("deep/copy.yaml", "deep/er/top.yaml"))
    assert copy == original


def test_cp_names_shipped_bases(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    for name, text in {
        "pyproject.toml": "",
        "framework/fewstep/__init__.py": "",
        "recipes/_base/small.yaml": RECIPE,
        "recipes/coins/coins-big.yaml": "# yaml-language-server: $schema=../x.json\n# Big.\n"
        "extends: ../_base/small.yaml\nname: big\n",
    }.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    monkeypatch.setattr(shipped, "PACKAGE", (checkout / "framework/fewstep").resolve())
    assert run(capsys, "cp", "coins-big", "mine.yaml")[0] == 0
    assert Path("mine.yaml").read_text() == "# Big.\nextends: _base/small\nname: big\n"
    assert load_recipe("mine.yaml").recipe == load_recipe("coins-big").recipe


def test_cp_copies_suites(capsys: pytest.CaptureFixture[str]) -> None:
    Path("suites").mkdir()
    assert run(capsys, "cp", "quickstart", "suites/mine.yaml")[0] == 0
    assert load_suite("suites/mine.yaml").suite == load_suite("quickstart").suite
    cases = "  - {name: a, recipe: ../small.yaml, steps: [1]}\n  - {name: b, recipe: coins-teacher, steps: [1]}\n"
    head = "schema_version: 1\nname: s\ntitle: T\nsamples: 10\nmetrics: [exact_nll]\nheadline: exact_nll\ncases:\n"
    Path("suites/of-paths.yaml").write_text(head + cases)
    assert run(capsys, "cp", "suites/of-paths.yaml", "copy.yaml")[0] == 0
    assert Path("copy.yaml").read_text() == (head + cases).replace("../small.yaml", "./small.yaml")


def test_cp_adds_a_modeline_where_there_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "schema", "--out", ".schema/recipe.json")
    Path("a/b").mkdir(parents=True)
    run(capsys, "cp", "small.yaml", "a/b/mine.yaml")
    assert Path("a/b/mine.yaml").read_text() == "# yaml-language-server: $schema=../../.schema/recipe.json\n" + RECIPE
