"""The core names no plugin: not its distribution, its package, nor a component of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fewstep

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(fewstep.__file__).parent
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def names_of(plugin: Path) -> set[str]:
    """Distribution and packages of a plugin; short names of entry points may be words."""
    text = (plugin / "pyproject.toml").read_text(encoding="utf-8")
    (distribution,) = re.findall(r'^name = "(.*)"', text, re.MULTILINE)
    packages = re.findall(r'^[\w-]+ = "([\w.]+)"', text.partition('"fewstep.plugins"]')[2].partition("\n[")[0], re.M)
    return {distribution, plugin.name, *packages}


def components_of(plugin: Path) -> set[str]:
    """Names under which a plugin registers components."""
    texts = (path.read_text(encoding="utf-8") for path in (plugin / "src").rglob("*.py"))
    return {name for text in texts for name in re.findall(r'\.register\(\s*"(\w+)"', text)}


def test_there_are_plugins_and_they_have_names() -> None:
    example = next(path for path in PLUGINS if path.name == "example-objective")
    assert names_of(example) == {"fewstep-example-objective", "example-objective", "fewstep_example_objective"}
    assert components_of(example) == {"soft_targets"}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_the_core_names_no_plugin(plugin: Path) -> None:
    names, components = names_of(plugin), components_of(plugin)
    for path in PACKAGE.rglob("*"):
        if path.suffix not in (".py", ".pyi", ".txt", ".yaml"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path
        if path.suffix == ".py":
            constants = {
                node.value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not components & constants, path
