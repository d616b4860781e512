"""A suite on a local cluster of two workers, one of which is killed at random moments; and what a cluster costs.

    python benchmarks/robustness/cluster.py --kills 10 --out FILE
    python benchmarks/robustness/cluster.py --costs --out FILE

Each round runs a small suite by `fewstep benchmark --cluster`, and kills (SIGKILL) one worker at a random moment
between the first line of a task and the last. results.json must equal that of one process but for times. The costs are
those of the same suite by `--jobs 2` and by a cluster of two workers, in turns, and of single tasks that do nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from small_runs import origin

from fewstep.cluster.cluster import open_cluster
from fewstep.cluster.settings import ClusterSettings, LocalWorkers
from fewstep.cluster.worker import Report

TEACHER = {
    "name": "small-teacher",
    "data": {"type": "markov", "vocab_size": 4, "length": 6, "successors": 2, "size": 512},
    "process": {"type": "masked"},
    "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
    "objective": {"type": "denoising"},
    "train": {"steps": 150, "batch_size": 32, "log_every": 10, "checkpoint_every": 10, "device": "cpu"},
}
STUDENT = {"extends": "./teacher.yaml", "name": "small-student", "objective": {"type": "dmmd", "k": 4}}
SUITE = {
    "name": "small",
    "title": "D-MMD on a small Markov source",
    "seeds": [0, 1, 2],
    "samples": 200,
    "metrics": [{"type": "ngram_distance", "order": 2}, "exact_nll"],
    "headline": "ngram_tv",
    "cases": [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2, 4, 8]},
        {"name": "student", "recipe": "./student.yaml", "teacher": "teacher", "steps": [1, 2, 4]},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2, 4]},
    ],
}
VOLATILE = {"seconds", "train_seconds", "train_tokens_per_second", "tokens_per_second", "peak_memory_mb", "date"}
"""Keys of results.json that say how long something took."""
CALL = {"command", "jobs", "threads"}
"""Keys that say how the suite was called."""
TASKS = 200


@dataclass(frozen=True)
class Round:
    """One run of the suite: the line of the console after which a worker was killed, and how it ended."""

    line: int
    during: str
    code: int
    equal: bool
    seconds: float


def write_files(folder: Path) -> None:
    for name, content in (("teacher", TEACHER), ("student", STUDENT), ("suite", SUITE)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "cluster.yaml").write_text("local: {workers: 2, threads: 1}\n")


def command(out: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "fewstep", "benchmark", "suite.yaml", "--out", out, *options]


def timeless(part: object) -> object:
    """Results without times and without the way of the call."""
    if isinstance(part, dict):
        return {key: timeless(value) for key, value in part.items() if key not in VOLATILE | CALL}
    return [timeless(value) for value in part] if isinstance(part, list) else part


def results(folder: Path) -> object:
    file = folder / "results.json"
    return timeless(json.loads(file.read_text())) if file.exists() else None


def workers(parent: int) -> list[int]:
    """Process numbers of the worker processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            process, ppid = int(status.parent.name), int(status.read_text().rsplit(")", 1)[1].split()[1])
            line = (status.parent / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
        if ppid == parent and "spawn_main" in line:
            found.append(process)
    return sorted(found)


def run(root: Path, out: str, *options: str) -> tuple[float, subprocess.Popen[bytes]]:
    """Start the suite in the background; returns the time of the start."""
    with (root / f"{out}.log").open("wb") as log:
        return time.monotonic(), subprocess.Popen(command(out, *options), cwd=root, stdout=log, stderr=log)


def last_line(root: Path, out: str) -> str:
    lines = (root / f"{out}.log").read_text(errors="replace").splitlines()
    return lines[-1].split("  |")[0].strip().replace("|", "/") if lines else ""


def wait_for_lines(root: Path, out: str, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the console shows that many lines of tasks, or the end."""
    while process.poll() is None and len(task_lines(root, out)) < count:
        time.sleep(0.05)


def task_lines(root: Path, out: str) -> list[str]:
    """Lines of the console from the first task to the last; the report follows them."""
    lines = (root / f"{out}.log").read_text(errors="replace").splitlines()
    return [line for line in lines if line.startswith(("[", "  "))]


def kill_rounds(root: Path, kills: int, seed: int) -> Iterator[Round]:
    """Undisturbed once, which says how many lines tasks print; then with a kill after a random line in each round."""
    rng, expected = random.Random(seed), results(root / "alone")
    run(root, "undisturbed", "--cluster", "cluster.yaml")[1].wait()
    total = len(task_lines(root, "undisturbed"))
    for number in range(kills):
        out = f"round-{number}"
        start, process = run(root, out, "--cluster", "cluster.yaml")
        line, delay = rng.randrange(1, total), rng.uniform(0, 1)
        wait_for_lines(root, out, line, process)
        time.sleep(delay)
        during, alive = last_line(root, out), workers(process.pid)
        if alive:
            os.kill(rng.choice(alive), signal.SIGKILL)
        code = process.wait()
        equal = code == 0 and results(root / out) == expected
        yield Round(line, during if alive else "after the last task", code, equal, time.monotonic() - start)


def table(rounds: list[Round], seed: int) -> str:
    lines = [
        "| kill | last line before it | exit code | results.json | seconds in all |",
        "| ---: | --- | ---: | --- | ---: |",
    ]
    for number, entry in enumerate(rounds, start=1):
        equal = "equal" if entry.equal else "**differs**"
        lines.append(f"| {number} | {entry.during} | {entry.code} | {equal} | {entry.seconds:.0f} |")
    return "\n".join([*lines, "", origin("cluster.py", seed)])


def nothing(report: Report, *needs: object) -> None:
    """A task that does nothing."""


def cost_of_tasks(root: Path) -> float:
    """Seconds of a task that does nothing, of many that wait for the one before."""
    settings = ClusterSettings(local=LocalWorkers(workers=2, threads=1))
    with open_cluster(settings, root, print) as cluster:
        for count in (4, TASKS):  # the first ones load what tasks need
            begun = time.monotonic()
            futures = [cluster.submit(("nothing",), nothing)]
            for _ in range(count - 1):
                futures.append(cluster.submit(("nothing",), nothing, needs=[futures[-1]]))
            list(cluster.outcomes(futures, lambda message: None))
    return (time.monotonic() - begun) / TASKS


def costs(root: Path, repeats: int) -> str:
    """The suite in two processes, by the own pool and by Dask, in turns; processor time is that of all processes."""
    ways = {"--jobs 2": ("--jobs", "2"), "--cluster, two workers": ("--cluster", "cluster.yaml")}
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for number, (name, options) in enumerate(ways.items()):
            out, before = f"cost-{repeat}-{number}", processor_seconds()
            start, process = run(root, out, *options)
            if process.wait():
                sys.exit(f"error: {name} failed: {last_line(root, out)}")
            measured[name].append((time.monotonic() - start, processor_seconds() - before))
    lines = ["| way | seconds | processor seconds |", "| --- | ---: | ---: |"]
    for name, pairs in measured.items():
        seconds, processor = (statistics.median(values) for values in zip(*pairs, strict=True))
        lines.append(f"| {name} | {seconds:.1f} | {processor:.1f} |")
    task = cost_of_tasks(root)
    load = os.getloadavg()[0]
    lines += ["", f"One task that does nothing: {1000 * task:.0f} ms. Load of the machine at the end: {load:.1f}."]
    return "\n".join([*lines, "", origin("cluster.py", 0)])


def processor_seconds() -> float:
    """Processor time of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--costs", action="store_true", help="measure costs instead")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each way, for --costs")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        root = Path(name)
        write_files(root)
        if options.costs:
            text, broken = costs(root, options.repeats), False
        else:
            run(root, "alone")[1].wait()
            rounds = []
            for entry in kill_rounds(root, options.kills, options.seed):
                rounds.append(entry)
                print(entry, flush=True)
            text, broken = table(rounds, options.seed), not all(entry.equal for entry in rounds)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    sys.exit(broken)


if __name__ == "__main__":
    main()
