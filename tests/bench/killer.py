"""Runs a suite, kills it at random moments, and runs it on; as a program, so that what it forks is one small process.

    python killer.py SUITE FOLDER KILLS SEED

FOLDER/undisturbed holds the results of a run that was left alone, FOLDER/round-N those of killed ones. A round that is
complete is followed by another one until there were KILLS kills. Prints the number of rounds.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from fewstep.bench.running.runner import run_suite


def start(source: str, out: Path) -> int:
    """Run the suite in a copy of this process; its id."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        try:
            run_suite(source, str(out))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> bool:
    """Whether a process ended by itself; it must have ended well."""
    done, status = os.waitpid(child, os.WNOHANG)
    if done and status:
        sys.exit(f"the suite failed (status {status})")
    return bool(done)


def main(source: str, folder: Path, kills: int, seed: int) -> int:
    """Kill and continue; the number of rounds."""
    rng, begun = random.Random(seed), time.monotonic()
    os.waitpid(start(source, folder / "undisturbed"), 0)
    whole, rounds, done = time.monotonic() - begun, 1, 0
    while True:
        child = start(source, folder / f"round-{rounds}")
        until = time.monotonic() + (rng.uniform(0.0, whole / 2) if done < kills else 1e9)
        while not (over := ended(child)) and time.monotonic() < until:
            time.sleep(0.01)
        if over and done >= kills:
            return rounds
        if over:
            rounds += 1
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            done += 1


if __name__ == "__main__":
    print(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
