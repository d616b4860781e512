"""Small trainings that campaigns interrupt and damage: each begins, continues or ends in a fork of this process.

Everything is imported once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint
from fewstep.runs.environment import describe_environment
from fewstep.runs.folder import RunDir
from fewstep.training.launch import launch
from fewstep.training.loggers import VOLATILE

SMALL = ("data.vocab_size=5", "data.length=8", "backbone.width=16", "backbone.depth=2", "train.batch_size=8")
OFTEN = (
    "train.steps=24",
    "train.log_every=3",
    "train.checkpoint_every=2",
    "train.keep_last=2",
    "watch.times=2",
    "watch.samples=4",
)
PAIRS = ("objective.pairs=64", "objective.teacher_steps=2")
TRAININGS = {
    "teacher": ("markov-teacher", None, ()),
    "dmmd": ("markov-dmmd", "teacher", ()),
    "sdtt": ("markov-sdtt", "teacher", ("objective.rounds=2",)),
    "rectified": ("markov-uniform-rectified", "uniform-teacher", PAIRS),
}
TEACHERS = {"teacher": "markov-teacher", "uniform-teacher": "markov-uniform-teacher"}


def train(name: str, folder: Path, root: Path) -> None:
    """The line of a training: begins, continues or finds the run finished."""
    recipe, teacher, changes = TRAININGS[name]
    launch(
        recipe,
        run_dir=str(folder),
        resume="auto",
        teacher=str(root / teacher) if teacher else None,
        sets=[*SMALL, *OFTEN, *changes],
    )


def forked(action: Callable[[], None], log: Path) -> int:
    """Run an action in a fork; returns the process number."""
    child = os.fork()
    if child:
        return child
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        action()
        os._exit(0)
    except SystemExit as stop:  # of the command line, which has said why
        sys.stdout.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def ended(child: int) -> int:
    """Exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def state_of(folder: Path) -> tuple[dict[str, object], list[dict[str, float]]]:
    """State of the last checkpoint, and log lines without what depends on the machine."""
    run = RunDir(folder)
    state = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    lines = [{key: value for key, value in line.items() if key not in VOLATILE} for line in run.log_lines()]
    return state, lines


def same(a: object, b: object) -> bool:
    """Whether two trees are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def make_straight(root: Path) -> dict[str, float]:
    """Teachers and an undisturbed run of each training, `straight-NAME`; returns the seconds that each took."""
    seconds, log = {}, root / "log"
    for name, recipe in TEACHERS.items():
        code = ended(forked(lambda n=name, r=recipe: launch(r, run_dir=str(root / n), sets=[*SMALL, *OFTEN]), log))  # type: ignore[misc]
        assert code == 0, log.read_text()
    for name in TRAININGS:
        begun = time.monotonic()
        code = ended(forked(lambda n=name: train(n, root / f"straight-{n}", root), log))  # type: ignore[misc]
        assert code == 0, log.read_text()
        seconds[name] = time.monotonic() - begun
    return seconds


def ends_like_straight(name: str, folder: Path, root: Path) -> bool:
    """Whether a finished run has the weights, average and log lines of the undisturbed one."""
    return all(map(same, state_of(folder), state_of(root / f"straight-{name}")))


def origin(script: str, seed: int) -> str:
    """The line below a table that says what it was made with."""
    facts = describe_environment()
    words = ["python", f"benchmarks/robustness/{script}", *sys.argv[1:]]
    line = " ".join(word for word in words if not word.endswith(".md") and word != "--out")
    return f"`{line}`: seed {seed}, commit {str(facts['commit'])[:7]}, {facts['hardware']}.\n"
