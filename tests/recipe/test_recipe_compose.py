"""`extends`, `--set`, `--teacher` and `${env:NAME}`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from fewstep.core.component import Strict
from fewstep.core.errors import RecipeError
from fewstep.core.references import Ref
from fewstep.recipe import compose as compose_module
from fewstep.recipe import validate_file
from fewstep.recipe.compose import compose, merge
from fewstep.recipe.yaml_loader import load_value
from fewstep.runtime.hashing import LocalPath


def composed(path: Path, *sets: str, teacher: str | None = None) -> Any:
    return compose(path, path.name, sets, teacher=teacher).plain()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def problems(path: Path, *sets: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        compose(path, path.name, sets)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("base", "over", "result"),
    [
        ("{a: 1, b: {c: 2}}", "{b: {d: 3}}", {"a": 1, "b": {"c": 2, "d": 3}}),
        ("{a: 1}", "{a: null}", {"a": None}),
        ("{a: null}", "{a: {b: 1}}", {"a": {"b": 1}}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": [3]}),
        # a changed type drops the old siblings, the same type or none keeps them
        ("{o: {type: x, k: 1}}", "{o: {type: y, m: 2}}", {"o": {"type": "y", "m": 2}}),
        ("{o: {type: x, k: 1}}", "{o: {type: x, m: 2}}", {"o": {"type": "x", "k": 1, "m": 2}}),
        ("{o: {type: x, k: 1}}", "{o: {m: 2}}", {"o": {"type": "x", "k": 1, "m": 2}}),
        ("{o: {k: 1}}", "{o: {type: x}}", {"o": {"k": 1, "type": "x"}}),
        # shorthand on either side
        ("{o: x}", "{o: {k: 1}}", {"o": {"type": "x", "k": 1}}),
        ("{o: x}", "{o: {type: y, k: 1}}", {"o": {"type": "y", "k": 1}}),
        ("{o: {type: x, k: 1}}", "{o: x}", {"o": {"type": "x", "k": 1}}),
        ("{o: {type: x, k: 1}}", "{o: y}", {"o": "y"}),
        ("{o: x}", "{o: y}", {"o": "y"}),
        # also below another component
        ("{p: {type: m, s: {type: a, e: 1}}}", "{p: {s: b}}", {"p": {"type": "m", "s": "b"}}),
    ],
)
def test_merge(base: str, over: str, result: Any) -> None:
    old, new = load_value(base, "base"), load_value(over, "over")
    assert old is not None
    assert new is not None
    assert merge(old, new).plain() == result


def test_every_leaf_remembers_its_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "train:\n  steps: 1\n  batch_size: 2\ndata: {type: x, k: 1}\n")
    path = write(tmp_path / "top.yaml", "extends: base.yaml\ntrain:\n  batch_size: 3\n")
    root = compose(path, "top.yaml", ["data.k=2", "train.accumulate=4"])
    places = {}
    for key in [("train", "steps"), ("train", "batch_size"), ("data", "type"), ("data", "k"), ("train", "accumulate")]:
        node, _ = root.follow(key)
        places[".".join(key)] = (Path(node.source).name, node.line)
    assert places == {
        "train.steps": ("base.yaml", 2),
        "train.batch_size": ("top.yaml", 3),
        "data.type": ("base.yaml", 4),
        "data.k": ("--set", 1),
        "train.accumulate": ("--set", 2),
    }


def test_extends_is_relative_to_the_file_that_says_so(tmp_path: Path) -> None:
    write(tmp_path / "_base/deep/a.yaml", "extends: ../b.yaml\na: 1\n")
    write(tmp_path / "_base/b.yaml", "a: 0\nb: 2\n")
    assert composed(write(tmp_path / "x/top.yaml", "extends: ../_base/deep/a.yaml\n")) == {"a": 1, "b": 2}


def test_extends_takes_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = write(tmp_path / "shipped.yaml", "a: 1\n")
    monkeypatch.setattr(
        compose_module, "find_shipped", lambda kind, name: {("base", "_base/digits"): shipped}[kind, name]
    )
    assert composed(write(tmp_path / "top.yaml", "extends: _base/digits\nb: 2\n")) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.yaml", "no such file: "),
        ("[a.yaml, b.yaml]", "expected one string"),
        ("3", "expected one string"),
        ("no-such-shipped-recipe", "no shipped recipe named 'no-such-shipped-recipe'"),
    ],
)
def test_extends_that_leads_nowhere(tmp_path: Path, value: str, message: str) -> None:
    (problem,) = problems(write(tmp_path / "top.yaml", f"a: 1\nextends: {value}\n"))
    assert problem.startswith(f"top.yaml:2: extends: {message}")


def test_a_circle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "x: 1\nextends: a.yaml\n")
    (problem,) = problems(Path("a.yaml"))
    assert problem == "b.yaml:2: extends: goes round in a circle: a.yaml -> b.yaml -> a.yaml"


def test_a_broken_base_is_blamed_by_its_own_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "base.yaml", "a: 1\na: 2\n")
    (problem,) = problems(write(tmp_path / "top.yaml", "extends: base.yaml\n"))
    assert problem.startswith("base.yaml:2: a: duplicate key")


@pytest.mark.parametrize(
    ("override", "result"),
    [
        ("train.steps=10", {"train": {"steps": 10}, "o": {"type": "x", "k": 1}}),
        ("train.lr=1e-4", {"train": {"steps": 1, "lr": 1e-4}, "o": {"type": "x", "k": 1}}),
        ("o=y", {"train": {"steps": 1}, "o": "y"}),
        ("o.type=y", {"train": {"steps": 1}, "o": {"type": "y"}}),
        ("o={type: x, m: 2}", {"train": {"steps": 1}, "o": {"type": "x", "k": 1, "m": 2}}),
        ("train.name=a=b", {"train": {"steps": 1, "name": "a=b"}, "o": {"type": "x", "k": 1}}),
        ("o=null", {"train": {"steps": 1}, "o": None}),
        ("new.key=[1, 2]", {"train": {"steps": 1}, "o": {"type": "x", "k": 1}, "new": {"key": [1, 2]}}),
    ],
)
def test_set(tmp_path: Path, override: str, result: Any) -> None:
    path = write(tmp_path / "top.yaml", "train: {steps: 1}\no: {type: x, k: 1}\n")
    assert composed(path, override) == result


def test_set_below_a_bare_component_name(tmp_path: Path) -> None:
    assert composed(write(tmp_path / "top.yaml", "o: x\n"), "o.k=1") == {"o": {"type": "x", "k": 1}}


def test_later_sets_win(tmp_path: Path) -> None:
    assert composed(write(tmp_path / "top.yaml", "a: 1\n"), "a=2", "a=3") == {"a": 3}


def test_every_bad_set_is_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "top.yaml", "a: 1\nl: [1]\n")
    sets = ["a", "=1", "a..b=1", "a.b=1", "l.0=1", "a=[", "a=", "a={b: 1, b: 2}"]
    assert problems(path, *sets) == [
        "--set:1: expected KEY=VALUE with a dotted key, as in train.steps=100, not 'a'",
        "--set:2: expected KEY=VALUE with a dotted key, as in train.steps=100, not '=1'",
        "--set:3: expected KEY=VALUE with a dotted key, as in train.steps=100, not 'a..b=1'",
        "--set:4: a.b: 'a' holds a value, not keys",
        "--set:5: l.0: 'l' holds a list; set all of it",
        "--set:6: not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'",
        "--set:7: a: no value after '='; write null for none",
        "--set:8: a.b: duplicate key 'b'; keep one of them",
    ]


def test_teacher_fills_its_key_and_keeps_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "top.yaml", "teacher: {run: old, weights: raw}\n")
    assert composed(path, teacher="new") == {"teacher": {"run": "new", "weights": "raw"}}
    assert composed(write(tmp_path / "none.yaml", "a: 1\n"), teacher="new") == {"a": 1, "teacher": {"run": "new"}}


class Places(Strict):
    """Settings of which two name something."""

    file: LocalPath
    runs: dict[str, Annotated[str, Ref("run")]] = Field({})
    name: str = "n"
    count: int = 1


def test_environment_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    text = "file: '${env:PLACE}/a.txt'\nruns: {a: '${env:PLACE}'}\n"
    assert validate_file(write(tmp_path / "top.yaml", text), Places).model_dump() == {
        "file": "/data/a.txt",
        "runs": {"a": "/data"},
        "name": "n",
        "count": 1,
    }


def test_environment_variables_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    only = "${env:...} is understood in settings that name a run, a model or a file only"
    for text, expected in [
        ("file: x/${env:NOWHERE}\ncount: ${env:HOME}\n", ["1: file: environment variable 'NOWHERE' is not set"]),
        ("file: x\ncount: ${env:HOME}\n", []),
        ("file: x\nname: a ${env:HOME}\n", []),
    ]:
        with pytest.raises(RecipeError) as caught:
            validate_file(write(tmp_path / "top.yaml", text), Places)
        lines = [f"{tmp_path / 'top.yaml'}:{line}" for line in [*expected, f"2: {text.split()[2]} {only}"]]
        assert str(caught.value).splitlines() == lines


def test_plugin_files_are_relative_to_the_file_that_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "base/base.yaml", "plugins: [./mine.py, acme]\n")
    path = write(tmp_path / "top.yaml", "extends: base/base.yaml\n")
    assert composed(path) == {"plugins": [str(tmp_path.resolve() / "base/mine.py"), "acme"]}
    monkeypatch.chdir(tmp_path)
    assert composed(path, "plugins=[./here.py]") == {"plugins": [str(tmp_path.resolve() / "here.py")]}
