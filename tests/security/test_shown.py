"""What a stranger's files say is shown as text: no terminal, page or typesetter acts on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arena import Arena

from fewstep.bench.report.tables import Grid
from fewstep.core.echo import printable
from fewstep.sampling.page import page

EVIL = "\x1b]0;title\x07\x9b31m\u202e<script>alert(1)</script>\\input{/etc/passwd}"
CONTROLS = "\x1b\x07\x9b\u202e"


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    monkeypatch.chdir(tmp_path)
    return Arena(tmp_path)


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31m\x9b\u202eb") == "a\\x1b[31m\\x9b\\u202eb"
    assert printable("Grüße, 日本\n\tεδ") == "Grüße, 日本\n\tεδ"
    assert printable("one\rtwo\x00\x7f") == "one\\rtwo\\x00\\x7f"


@pytest.mark.parametrize("key", ["backbone", "data", "sampler"])
def test_messages_send_no_control_characters(arena: Arena, key: str) -> None:
    outcome = arena.fewstep("sample", arena.exported({key: {"type": EVIL}}), "-n", "2")
    assert outcome.code == 2
    assert not set(CONTROLS) & set(outcome.text)
    assert "\\x1b" in outcome.text


def test_tables_send_no_control_characters(arena: Arena) -> None:
    status = arena.folder / "runs/mine/20260101-000000-abcd"
    status.mkdir(parents=True)
    (status / "recipe.resolved.yaml").write_text("name: mine\n")
    (status / "status.json").write_text(json.dumps({"state": EVIL, "step": 1, "steps": 2}))
    outcome = arena.fewstep("runs")
    assert not set(CONTROLS) & set(outcome.text)


def test_typesetting_takes_text_as_text() -> None:
    text = Grid(["model"], [[EVIL]]).latex()
    assert "\\input{" not in text
    assert "\\textbackslash" in text


def test_a_page_of_samples_runs_no_script_of_theirs() -> None:
    evil = "</script><script>alert(1)"
    text = page(evil, [evil, "b"], [1.0, 0.0], [[[2, 2]], [[0, 1]]], None, flowing=True)
    assert "<script>alert" not in text
