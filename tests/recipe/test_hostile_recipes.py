"""Recipes as hostile input: limits on size, values, depth and echoes; regular files only."""

from __future__ import annotations

import os
import resource
import string
import time
from itertools import pairwise
from pathlib import Path

import pytest

from fewstep.cli.main import describe, main
from fewstep.core.echo import LONGEST_VALUE, safe_message, shown
from fewstep.core.errors import FewstepError, OperationError, Problem, RecipeError
from fewstep.recipe import parse_recipe
from fewstep.recipe.compose import MOST_BASES, compose
from fewstep.recipe.yaml_loader import MAX_BYTES, MAX_DEPTH, MAX_VALUES, load_mapping, load_value, read_text, to_node


def laughs(levels: int) -> str:
    """Nine aliases of nine aliases of ...: 9^levels values."""
    names = string.ascii_lowercase[: levels + 1]
    lines = [f"{name}: &{name} [{', '.join([f'*{below}'] * 9)}]" for below, name in pairwise(names)]
    return "\n".join(["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]", *lines])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(20), f"more than {MAX_VALUES:,} values, counting what aliases stand for"),
        ("a: [" + "1, " * (MAX_VALUES + 1) + "]", f"more than {MAX_VALUES:,} values"),
        ("a: " + "[" * (MAX_DEPTH + 1), "nested too deeply"),
        ("- " * (MAX_DEPTH + 1), "nested too deeply"),
        ("? " * (MAX_DEPTH + 1), "nested too deeply"),
        ("a0: &a0 1\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(MAX_DEPTH)), "nested too deeply"),
        ("a: " + "x" * MAX_BYTES, "larger than 256 KiB"),
    ],
    ids=["laughs", "wide", "lists", "dashes", "questions", "chain", "long"],
)
def test_a_text_beyond_a_limit_is_refused(text: str, message: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(RecipeError, match=message):
        load_mapping(text, "f")
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_text_at_the_limits_is_read() -> None:
    assert load_value("[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1), "f") is not None
    assert load_value("[" + ", ".join(["1"] * (MAX_VALUES - 1)) + "]", "f") is not None
    assert load_value(laughs(2), "f") is not None  # 9 + 81 + 729 values


def test_plain_data_are_bounded_too() -> None:
    value: object = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(RecipeError, match="nested too deeply"):
        to_node(value, "f")
    with pytest.raises(RecipeError, match="nested too deeply"):
        parse_recipe({"name": value})


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
@pytest.mark.parametrize("place", ["{}", "[1, {}]", "{{a: {{b: {}}}}}"])
def test_whole_numbers_have_64_bits(number: int, place: str) -> None:
    with pytest.raises(RecipeError, match=r"should be a whole number below 2\^63"):
        load_value(place.format(number), "f")
    assert load_value(place.format(2**63 - 1), "f") is not None


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "large", "circle"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)  # sparse: no disk is used
    with pytest.raises(RecipeError, match=r"regular file|is a folder|larger than|symbolic links"):
        read_text(path)


def test_files_that_extend_one_another_without_end(tmp_path: Path) -> None:
    for number in range(MOST_BASES + 2):
        (tmp_path / f"{number}.yaml").write_text(f"extends: ./{number + 1}.yaml\n")
    with pytest.raises(RecipeError, match=f"more than {MOST_BASES} files"):
        compose(tmp_path / "0.yaml", "0.yaml")


@pytest.mark.parametrize(
    "change",
    [
        "{}=1",
        "{}",
        "data={}",
        "data.{}=1",
        "train.steps={}",
        "objective.type={}",
        "plugins=[{}]",
        "train.steps=!{} x",
        "name=${{env:{}}}",
        "name='{}/'",
        "optim.decay={}",
        "sampler={{? {} : 1, ? {} : 2}}",
        "train.steps=9{}",
    ],
)
@pytest.mark.parametrize("value", ["x" * 3000, "x y " * 800, "9" * 5000], ids=["word", "words", "digits"])
def test_an_echoed_value_is_cut(
    change: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.core.registry.failure_notes", list)  # of broken plugins of other tests
    with pytest.raises(SystemExit) as stop:
        main(["validate", "smoke-teacher", "--set", change.format(value, value)])
    text = capsys.readouterr().err
    assert stop.value.code == 2
    assert value[: LONGEST_VALUE + 1] not in text
    assert len(text) < 1500


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x07", "\r", "\u202e", "\x9b31m", "\u2028"])
def test_no_control_character_reaches_the_console(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    escaped = '"' + "".join(f"\\U{ord(c):08x}" for c in hostile) + '"'
    for args in (
        ["validate", f"no{hostile}file.yaml"],
        ["validate", f"no{hostile}recipe"],
        ["show", hostile],
        ["sample", f"runs/{hostile}"],
        ["evaluate", f"runs/{hostile}"],
        ["benchmark", f"{hostile}.yaml"],
        *(["validate", "smoke-teacher", "--set", change] for change in (f"{hostile}=1", f"data={escaped}", hostile)),
        ["validate", "smoke-teacher", "--set", f"train.steps={{{escaped}: 1}}"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(args)
        out = capsys.readouterr()
        assert stop.value.code == 2, args
        assert hostile not in out.err + out.out, args


def test_at_most_20_problems_are_listed() -> None:
    problems = [Problem("f", line, "", f"wrong {line}") for line in range(1, 31)]
    lines = describe(RecipeError(problems)).splitlines()
    assert lines[19:] == ["f:20: wrong 20", "and 10 more", "30 problems"]
    assert RecipeError(problems).problems == problems
    assert describe(RecipeError(problems[:20])).splitlines()[19:] == ["f:20: wrong 20", "20 problems"]


def test_a_shown_value_keeps_its_ends() -> None:
    assert shown("short") == "short"
    assert shown("a" * 60 + "b" * 60) == "a" * 57 + "..." + "b" * 20
    assert shown("line\nbreak\x1b") == "line\\nbreak\\x1b"
    assert len(shown("\x1b" * 500)) == LONGEST_VALUE


def test_a_message_keeps_its_lines_and_paths() -> None:
    path = "/folder" * 30
    assert str(FewstepError(f"first '{path}'\nsecond")) == f"first '{path}'\nsecond"
    assert str(OperationError(f"no '{'x' * 500}'; advice")).endswith("x'; advice")
    assert safe_message("é ü 漢字 '\x1b'", lines=False) == "é ü 漢字 '\\x1b'"


@pytest.mark.parametrize("key", ["train.batch_size", "train.accumulate", "evaluate.batch_size", "watch.samples"])
def test_rows_in_memory_have_a_limit(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", "smoke-teacher", "--set", f"{key}={10**12}"])
    assert stop.value.code == 2
    assert f"{key}: should be less than or equal to 1048576" in capsys.readouterr().err
