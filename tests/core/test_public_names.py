"""The public names: each is there, loaded when it is first used, and known to type checkers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fewstep

PACKAGE = Path(fewstep.__file__).parent
ROOT = PACKAGE.parents[1]

GOOD = """\
from typing import Literal

import torch
from fewstep import OBJECTIVES, Batch, ComponentConfig, LossOutput, Objective, Phase, Pipeline, StepContext


@OBJECTIVES.register("mine")
class Mine(Objective):
    class Config(ComponentConfig):
        type: Literal["mine"] = "mine"
        weight: float = 1.0

    config: Config

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        return LossOutput(self.config.weight * torch.zeros(()))


texts: list[str] = Pipeline.from_pretrained("run").sample(4).texts
"""
WRONG = GOOD.replace("config.weight *", "config.wieght *").replace("sample(4)", "sampel(4)")
MISTAKES = {
    line: f'"{owner}" has no attribute "{name}"'
    for line, text in enumerate(WRONG.splitlines(), 1)
    for owner, name in (("Config", "wieght"), ("Pipeline", "sampel"))
    if name in text
}


@pytest.mark.slow
def test_a_type_checker_knows_them(tmp_path: Path) -> None:
    """mypy --strict finds both mistakes of a consumer, and nothing in one without them."""
    for name, text in (("good.py", GOOD), ("wrong.py", WRONG)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "--no-pretty"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "consumer"), "--show-error-codes", "good.py", "wrong.py"]
    environment = {**os.environ, "MYPYPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(MISTAKES) == 2
    assert len(errors) == 2, done.stdout + done.stderr
    for error, (line, message) in zip(errors, sorted(MISTAKES.items()), strict=True):
        assert error.startswith(f"wrong.py:{line}: error: {message}")


@pytest.mark.parametrize("name", [name for name in fewstep.__all__ if name != "__version__"])
def test_each_name_is_what_it_says(name: str) -> None:
    value = getattr(fewstep, name)
    assert getattr(value, "__name__", name) == name


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="Pipelin"):
        fewstep.Pipelin  # noqa: B018
    assert dir(fewstep) == sorted(fewstep.__all__)


def test_the_package_does_not_import_its_face() -> None:
    """A module that did would be part of a circle, and load lazily what it needs at once."""
    faces = [
        str(path)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "fewstep" and node.level == 0)
        or (isinstance(node, ast.Import) and any(alias.name == "fewstep" for alias in node.names))
    ]
    assert not faces
