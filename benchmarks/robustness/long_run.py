"""A very long training of a tiny network: memory and open files stay flat.

    python benchmarks/robustness/long_run.py --steps 200000 --out FOLDER

A process trains and saves every 2,000 steps, while another one reads its memory (proportional set size) and its open
files from /proc. FOLDER gets a table and a picture.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from small_runs import SMALL, origin

from fewstep.runs.folder import RunDir

EVERY = 5.0
"""Seconds between two readings."""


def reading(pid: int) -> tuple[float, int, int]:
    """Memory in MB, open files and threads of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[1])  # type: ignore[index]
    return kilobytes / 1e3, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def watch(words: list[str], run: RunDir) -> list[tuple[int, float, int, int]]:
    """Step, memory, open files and threads of a training, every few seconds until it ends."""
    readings = []
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        time.sleep(EVERY)
        try:
            step = run.status.get("step")
            if isinstance(step, int):
                readings.append((step, *reading(process.pid)))
        except (OSError, TypeError):  # it has just ended
            break
    error = process.communicate()[1]
    if process.returncode:
        sys.exit(f"error: the training ended with code {process.returncode}: {error.splitlines()[-1]}")
    return readings


def draw(readings: list[tuple[int, float, int, int]], file: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    steps, memory, files, threads = zip(*readings, strict=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    axes[0].plot(steps, memory)
    axes[0].set(xlabel="step", ylabel="memory in MB", ylim=(0, 1.1 * max(memory)))
    axes[1].plot(steps, files, label="open files")
    axes[1].plot(steps, threads, label="threads")
    axes[1].set(xlabel="step", ylim=(0, None))
    axes[1].legend()
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def table(readings: list[tuple[int, float, int, int]]) -> str:
    """Readings at tenths of the training, and the slope of memory after the first tenth."""
    last = readings[-1][0]
    lines = ["| step | memory (MB) | open files | threads |", "| ---: | ---: | ---: | ---: |"]
    for tenth in range(11):
        step, memory, files, threads = min(readings, key=lambda row: abs(row[0] - tenth * last / 10))
        lines.append(f"| {step:,} | {memory:.1f} | {files} | {threads} |")
    late = [row for row in readings if row[0] > last / 10]
    mean_step, mean_memory = (sum(row[i] for row in late) / len(late) for i in (0, 1))
    slope = sum((row[0] - mean_step) * (row[1] - mean_memory) for row in late) / sum(
        (row[0] - mean_step) ** 2 for row in late
    )
    return "\n".join([*lines, "", f"Slope after the first tenth: {1e5 * slope:.2f} MB in 100,000 steps.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--out", type=Path, required=True, help="folder for table and picture")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        run = RunDir(Path(folder) / "run")
        changes = [*SMALL, f"train.steps={options.steps}", "train.log_every=100", "train.checkpoint_every=2000"]
        sets = [word for change in changes for word in ("--set", change)]
        readings = watch(
            [sys.executable, "-m", "fewstep", "train", "markov-teacher", "--run-dir", str(run.path), *sets], run
        )
    draw(readings, options.out / "long_run.png")
    text = table(readings) + "\n" + origin("long_run.py", 0)
    print(text)
    (options.out / "long_run.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
