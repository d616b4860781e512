"""The YAML dialect of recipes, and the line that stands behind every value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.core.errors import RecipeError
from fewstep.recipe.yaml_loader import dotted, dump_yaml, load_mapping, load_value, read_text, to_node, undotted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("5E3", 5000.0), (".5", 0.5), ("1.", 1.0), ("-.inf", -math.inf), ("1_000", 1000), ("007", 7),
        ("0x10", 16), ("0o17", 15), ("+3", 3), ("true", True), ("False", False), ("null", None), ("~", None),
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"), ("'1'", "1"),
        ("1.2.3", "1.2.3"), ("e5", "e5"), ("[1, 2.0]", [1, 2.0]), ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    node = load_value(text, "x")
    assert node is not None
    assert node.plain() == value
    assert type(node.plain()) is type(value)


def test_every_value_knows_its_line() -> None:
    root = load_mapping("a: 1\nb:\n  c:\n    - x\n    - {d:\n        2}\n", "f.yaml")
    lines = {key: root.follow(key)[0].line for key in [("a",), ("b",), ("b", "c"), ("b", "c", 0), ("b", "c", 1, "d")]}
    assert lines == {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", 0): 4, ("b", "c", 1, "d"): 5}


def test_follow_stops_at_the_deepest_value_that_exists() -> None:
    node, depth = load_mapping("a:\n  b: 1\n", "f.yaml").follow(("a", "b", "c"))
    assert (node.value, node.line, depth) == (1, 2, 2)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a: duplicate key 'a' on lines 1 and 3"),
        ("a:\n  b: 1\n  b: 2\n", 3, "a.b: duplicate key 'b' on lines 2 and 3"),
        ("a:\n\tb: 1\n", 2, "tab"),
        ("a: [1, 2\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: *nobody\n", 1, "undefined alias"),
        ("a: &x {b: *x}\n", 1, "a.b: an alias that contains itself"),
        ("a: !!python/object:os.system {}\n", 1, "not allowed"),
        ("a: !!int abc\n", 1, "'abc' is not a int"),
        ("? [1]\n: 2\n", 1, "a key must be"),
        ("a: 1\nb: \x01\n", 2, "not allowed"),
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("- 1\n", 1, "found a list"),
        ("hello\n", 1, "found a single value"),
    ],
)
def test_what_cannot_be_read_is_located(text: str, line: int, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_mapping(text, "f.yaml")
    (problem,) = caught.value.problems
    assert (problem.source, problem.line) == ("f.yaml", line)
    assert message in str(problem)


def test_every_duplicate_is_reported() -> None:
    with pytest.raises(RecipeError) as caught:
        load_mapping("a: 1\na: 2\nb: 1\nb: 2\n", "f.yaml")
    assert [problem.key for problem in caught.value.problems] == ["a", "b"]


def test_nesting_beyond_reason_is_an_error() -> None:
    with pytest.raises(RecipeError, match="nested too deeply"):
        load_mapping("a: " + "[" * 600, "f.yaml")


def test_unreadable_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: caf\u00e9\n".encode("latin-1"))
    for path, message in [
        (latin, r"latin.yaml:2: not UTF-8 text \(byte 0xe9\)"),
        (tmp_path / "none.yaml", "none.yaml: no such file"),
        (tmp_path, "is a folder"),
        (latin / "x.yaml", "cannot be read: Not a directory"),
    ]:
        with pytest.raises(RecipeError, match=message):
            read_text(path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_mapping(read_text(path), "f").plain() == {"a": 1}


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcno_-10. :#", min_size=1), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "type"]), _PLAIN, min_size=1))
def test_what_is_dumped_is_read_back(value: dict[str, Any]) -> None:
    again = load_mapping(dump_yaml(value), "f").plain()
    assert again == value
    assert repr(again) == repr(value)


@pytest.mark.parametrize("text", ["yes", "1e-4", "1_0", "0o7", "", "~", "on", "12:30", "a: b", "- a", "caf\u00e9"])
def test_strings_stay_strings_for_other_readers_too(text: str) -> None:
    assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}


def test_dotted_keys_have_an_inverse() -> None:
    key = ("evaluate", "metrics", 12, "type")
    assert dotted(key) == "evaluate.metrics[12].type"
    assert undotted(dotted(key)) == key
    assert undotted("") == ()


def test_plain_data_becomes_nodes_and_back() -> None:
    value = {"a": [1, {"b": "x"}], "c": ("y", None)}
    node = to_node(value, "src", 7)
    assert node.plain() == {"a": [1, {"b": "x"}], "c": ["y", None]}
    assert node.follow(("a", 1, "b"))[0].line == 7
