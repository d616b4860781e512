"""A stranger's model runs no code: every way of `ways.py` is tried, and its canary must not be written."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from arena import Arena
from ways import CODE

from fewstep.data.text.preparation.hub import library


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Arena(tmp_path)


@pytest.mark.medium
@pytest.mark.parametrize("name", CODE)
def test_no_code_runs(name: str, arena: Arena) -> None:
    outcome = CODE[name](arena)
    assert not arena.canary.exists(), outcome


def test_datasets_of_the_hub_run_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of the library before 4 run a script of the repository if they are allowed to."""
    stand_in = types.SimpleNamespace(config=types.SimpleNamespace(), disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)  # type: ignore[arg-type]
    assert library("this test").config.HF_DATASETS_TRUST_REMOTE_CODE is False


@pytest.mark.parametrize("trusted", [False, True])
def test_trust_runs_it(arena: Arena, trusted: bool) -> None:
    """So the tests above can fail, and those who trust a model can open it."""
    run = arena.run_with_code()
    outcome = arena.fewstep("sample", run, "-n", "2", "--steps", "2", *["--trust-plugins"] * trusted)
    assert (outcome.code == 0, arena.canary.exists()) == (trusted, trusted), outcome


def test_a_missing_plugin_is_named_with_its_version(arena: Arena) -> None:
    environment = {"plugins": ["acme (acme-objectives 1.2)", "evil (x; rm 1)"]}
    name = arena.exported({"plugins": ["acme-objectives"]}, {"environment": environment})
    text = arena.fewstep("sample", name, "-n", "2").text
    assert "no installed plugin 'acme-objectives' (the model has 1.2)" in text
    assert "pip install 'acme-objectives==1.2'" in text


@pytest.mark.parametrize("name", ["x; rm -rf ~", "$(touch x)", "a' 'b", "../x", "-r x", ""])
def test_no_line_to_copy_holds_a_command_of_theirs(arena: Arena, name: str) -> None:
    text = arena.fewstep("sample", arena.exported({"plugins": [name]}), "-n", "2").text
    assert "pip install" not in text
    assert "no plugin '" in text
