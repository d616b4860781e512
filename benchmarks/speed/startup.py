"""Processor time of commands, to their end or to the first step of a training, over that of importing torch."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from rows import Row, interleaved, paired

GOALS = {"--help": 0.25, "validate": 2.0, "train to its first step": 4.0}
"""Seconds on the machine that the goals were set on."""


def seconds(words: list[str]) -> float:
    """User and system time of a child."""
    before = os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(quick: bool) -> Iterator[Row]:
    """Times over that of `import torch`; the full form has them in seconds too, and a training."""
    command = ["-m", "fewstep"]
    with tempfile.TemporaryDirectory() as folder:
        changes = ["train.steps=1", "train.log_every=1", "data.size=64", "train.batch_size=8", "watch.times=0"]
        sets = [word for change in changes for word in ("--set", change)]
        words = {
            "import torch": ["-c", "import torch"],
            "--help": [*command, "--help"],
            "validate": [*command, "validate", "markov-teacher"],
            "train to its first step": [*command, "train", "markov-teacher", *sets, "--run-dir", f"{folder}/run"],
        }
        if quick:
            words.popitem()
        calls = {name: lambda line=line: seconds(_fresh(line, folder)) for name, line in words.items()}
        times = interleaved(calls, 2 if quick else 7)
    for name, goal in GOALS.items():
        if name not in times:
            continue
        ratios = paired(times[name], times["import torch"])
        yield Row.of("startup", f"{name} / import torch", ratios, tolerance=1.0)
        if not quick:
            yield Row.of("startup", f"{name}, seconds of processor time", times[name], goal=goal, tolerance=0.5)


def _fresh(line: list[str], folder: str) -> list[str]:
    """A training in a new run folder each time."""
    return [tempfile.mkdtemp(dir=folder) + "/run" if word == f"{folder}/run" else word for word in line]
