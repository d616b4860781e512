"""Lower bounds of dependencies are versions that are tested: pinned in a file of constraints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pins(name: str) -> dict[str, str]:
    """Versions by distribution, of a file of constraints."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def bounds() -> dict[str, str]:
    """Lowest versions by distribution, of pyproject.toml's `dependencies`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^dependencies = \[(.*?)^\]", text, re.S | re.M)
    assert section
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)', section[1]))


def test_every_dependency_has_a_lower_bound() -> None:
    assert {"torch", "torchvision", "xformers", "pydantic", "numpy"} <= set(bounds())
    assert len(bounds()) == 17


@pytest.mark.parametrize("name", ["torch", "torchvision", "xformers"])
def test_the_lowest_of_torch_is_the_tested_one(name: str) -> None:
    assert bounds()[name] == pins("constraints.txt")[name]


def test_other_lower_bounds_are_those_of_the_lowest_set() -> None:
    others = {name: version for name, version in bounds().items() if name not in pins("constraints.txt")}
    lowest = pins("constraints-lowest.txt")
    assert others == {name: lowest[name] for name in others}
