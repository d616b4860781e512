"""Campaigns of crashes: does every interrupted run go on by the same line, and end with the same weights?

    python benchmarks/robustness/crashes.py --kills 100 --points 200 --out FILE

Kills: SIGKILL at a random moment, up to three times a run, over trainings of a teacher, D-MMD, SDTT and ReDi.
Crash points: the process ends before its Nth file operation (open for writing, rename, remove, make a folder), for N
from 1 on. After each crash the same line continues the run until it is finished. Its weights, average and log lines
are compared with those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from small_runs import TRAININGS, ended, ends_like_straight, forked, make_straight, origin, train

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
MOST_ATTEMPTS = 12


@dataclass
class Tally:
    """Outcomes of one campaign."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    notes: list[str] = field(default_factory=list)


def crash_before(number: int, folder: Path) -> None:
    """End this process before its file operation of that number below a folder."""
    count, below = [0], str(folder)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event in WRITES:
            path = args[0]
        else:
            return
        if isinstance(path, (str, os.PathLike)) and str(path).startswith(below):
            count[0] += 1
            if count[0] == number:
                os._exit(99)

    sys.addaudithook(hook)


def finish(name: str, folder: Path, root: Path, tally: Tally, log: Path) -> None:
    """Continue by the same line until the run is finished, and compare it."""
    for _ in range(MOST_ATTEMPTS):
        if ended(forked(lambda: train(name, folder, root), log)) == 0:
            break
    else:
        tally.outcomes["does not go on"] += 1
        tally.notes.append(f"{folder.name}: {log.read_text(errors='replace').splitlines()[-1]}")
        return
    outcome = "identical" if ends_like_straight(name, folder, root) else "differs"
    tally.outcomes[outcome] += 1
    if outcome == "differs":
        tally.notes.append(f"{folder.name} differs")


def kills(count: int, root: Path, seconds: dict[str, float], draw: random.Random) -> Tally:
    """SIGKILL at random moments, in turn over all trainings."""
    tally, number = Tally("SIGKILL at a random moment"), 0
    while tally.crashes < count:
        name = list(TRAININGS)[number % len(TRAININGS)]
        folder, log = root / f"kill-{number}", root / f"kill-{number}.log"
        for _ in range(min(3, count - tally.crashes)):
            child = forked(lambda n=name, f=folder: train(n, f, root), log)  # type: ignore[misc]
            time.sleep(draw.uniform(0, 1.1 * seconds[name]))
            os.kill(child, signal.SIGKILL)
            if ended(child) == -signal.SIGKILL:
                tally.crashes += 1
        finish(name, folder, root, tally, log)
        shutil.rmtree(folder, ignore_errors=True)
        number += 1
    return tally


def points(count: int, root: Path) -> Tally:
    """A crash before the Nth file operation, evenly over the trainings and over all operations of each."""
    tally = Tally("crash before the Nth file operation")
    each = -(-count // len(TRAININGS))
    for name in TRAININGS:
        number = 1
        for _ in range(each):
            if tally.crashes >= count:
                break
            folder, log = root / f"point-{name}-{number}", root / f"point-{name}-{number}.log"

            def crashing(name: str = name, folder: Path = folder, number: int = number) -> None:
                crash_before(number, folder)
                train(name, folder, root)

            if ended(forked(crashing, log)) != 99:
                shutil.rmtree(folder, ignore_errors=True)
                break
            tally.crashes += 1
            finish(name, folder, root, tally, log)
            shutil.rmtree(folder, ignore_errors=True)
            number += 1 if number < 30 else 7
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        root = Path(folder)
        seconds = make_straight(root)
        tallies = [kills(options.kills, root, seconds, random.Random(options.seed)), points(options.points, root)]
    text = table(tallies, options.seed)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def table(tallies: list[Tally], seed: int) -> str:
    """The outcomes as a page."""
    lines = [
        "| campaign | crashes | runs that end identical | that differ | that do not go on |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for tally in tallies:
        counts = [tally.outcomes[key] for key in ("identical", "differs", "does not go on")]
        lines.append(f"| {tally.name} | {tally.crashes} | {' | '.join(map(str, counts))} |")
    lines += ["", *(f"* {note}" for tally in tallies for note in tally.notes)]
    return "\n".join([*lines, origin("crashes.py", seed)])


if __name__ == "__main__":
    main()
