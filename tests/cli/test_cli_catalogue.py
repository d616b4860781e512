"""`list`, `show` and `doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fewstep import __version__
from fewstep.cli import doctor
from fewstep.cli.main import main
from fewstep.core import plugins
from fewstep.core.kinds import KINDS, registry
from fewstep.recipe import load_recipe


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loader", plugins._Loader())
    monkeypatch.setenv("FEWSTEP_PLUGINS", "none")


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code, *capsys.readouterr()


def test_list_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == [*KINDS, "recipes", "suites", "plugins"]
    for kind in KINDS:
        assert [row["name"] for row in found[kind]] == registry(kind).names()
    (ancestral,) = (row for row in found["samplers"] if row["name"] == "ancestral")
    assert ancestral["origin"] == f"fewstep {__version__}"
    assert all(row["summary"] for kind in KINDS for row in found[kind])
    assert all(Path(row["origin"]).suffix == ".yaml" for row in found["recipes"])


@pytest.mark.parametrize("word", ["samplers", "sampler"])
def test_list_one_kind(capsys: pytest.CaptureFixture[str], word: str) -> None:
    code, out, _ = run(capsys, "list", word)
    assert code == 0
    assert out.startswith("samplers\n")
    assert any(line.split()[:3] == ["ancestral", "fewstep", __version__] for line in out.splitlines())
    assert "objectives" not in out


def test_list_says_where_nothing_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list", "plugins") == (0, "plugins\n  (none)\n\n", "")


def test_failed_plugins_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    plugins._loader.discovered = True
    plugins._loader.plugins["acme"] = plugins.Plugin("acme", "acme", "acme-dist", "2.0", "ImportError: no glue")
    _, out, err = run(capsys, "list", "plugins")
    assert "acme-dist 2.0" in out
    assert "ImportError: no glue" in out
    assert err == "warning: plugin 'acme' failed to load: ImportError: no glue\n"
    assert run(capsys, "list", "samplers")[2] == err
    _, out, _ = run(capsys, "doctor")
    assert "missing  plugin acme     acme-dist 2.0, ImportError: no glue; repair or uninstall it" in out


def test_show_a_component(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "sampler", "ancestral", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["origin"].startswith(f"fewstep {__version__} (")
    keys = {row["key"]: row for row in shown["keys"]}
    assert keys["temperature"]["type"] == "float > 0"
    assert keys["temperature"]["default"] == "1.0"
    assert keys["temperature"]["description"]
    _, out, _ = run(capsys, "show", "sampler", "ancestral")
    assert out.startswith("sampler 'ancestral'\nfrom fewstep ")
    assert "float > 0" in out


def test_show_names_components_and_required_keys(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {row["key"]: row for row in json.loads(run(capsys, "show", "process", "masked", "--json")[1])["keys"]}
    assert keys["schedule"]["type"] == "noise schedule"
    keys = {row["key"]: row for row in json.loads(run(capsys, "show", "dataset", "text", "--json")[1])["keys"]}
    assert keys["path"]["default"] == "required"


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_listed_can_be_shown(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for name in registry(kind).names():
        code, out, _ = run(capsys, "show", kind, name, "--json")
        assert code == 0
        assert json.loads(out)["keys"][0]["key"] == "type"


def test_show_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    (name, *_) = [row["name"] for row in json.loads(run(capsys, "list", "recipes", "--json")[1])["recipes"]]
    code, out, _ = run(capsys, "show", "recipe", name)
    assert code == 0
    assert f"name: {name}" in out
    assert run(capsys, "show", "recipe", name + "x")[0] == 2


def test_show_without_a_name_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show", "recipes", "--json") == run(capsys, "list", "recipes", "--json")
    assert run(capsys, "show", "--json")[1] == run(capsys, "list", "--json")[1]


def test_show_a_resolved_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "show", "recipe", "smoke-teacher", "--resolved")
    assert code == 0
    (tmp_path / "resolved.yaml").write_text(out)
    assert "extends" not in out
    assert load_recipe(tmp_path / "resolved.yaml").recipe == load_recipe("smoke-teacher").recipe
    assert run(capsys, "show", "sampler", "gibbs", "--resolved")[0] == 2


def test_a_report_has_no_home_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(sys.executable).parent))
    _, out, _ = run(capsys, "doctor", "--report")
    assert out.startswith("| | |\n|---|---|\n| system | ")
    assert "| fewstep | " in out
    assert f"~/{Path(sys.executable).name}" in out
    assert str(Path(sys.executable).parent) not in out


def test_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "doctor", "--json")
    findings = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert {"python", "fewstep", "torch", "cuda", "xformers", "attention", "cores", "plugins", "current folder"} <= set(
        findings
    )
    assert findings["torch"]["ok"]
    assert "sdpa" in findings["attention"]["found"]
    assert all(row["ok"] or row["advice"] for row in findings.values())
    _, out, _ = run(capsys, "doctor")
    assert len(out.splitlines()) == len(findings)
    assert {line.split()[0] for line in out.splitlines()} <= {"ok", "missing"}


def test_doctor_fails_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "missing  current folder  not writable (Permission denied); runs are written below it" in out


@pytest.mark.parametrize("kind", KINDS)
def test_types_are_written_without_addresses_and_validators(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for name in registry(kind).names():
        for row in json.loads(run(capsys, "show", kind, name, "--json")[1])["keys"]:
            assert all(sign not in row["type"] for sign in ("0x", "function", "Validator", "Ref(", "lambda")), row


def test_types_keep_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {
        row["key"]: row["type"] for row in json.loads(run(capsys, "show", "dataset", "corpus", "--json")[1])["keys"]
    }
    assert keys["path"] == "str | None"
    assert keys["held_out"] == "float >= 0, < 1"
