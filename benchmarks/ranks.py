"""Speed, efficiency and memory of a training on several ranks of this machine: `python benchmarks/ranks.py`.

Two trainings of different lengths give the time of a step without that of the start: the wall's, of the first rank,
and the processor's, of all ranks, which other programs on the machine hardly change. Memory is the peak of the first
rank's process, less that of a training of a network of a few thousand parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import yaml

SIZES = {"tiny": (16, 1), "10M": (256, 12), "50M": (512, 16)}
"""Width and depth by name."""


@dataclass(frozen=True)
class Row:
    """A training: seconds of a step on the wall and of processors, samples in a second, megabytes of a rank."""

    network: str
    strategy: str
    ranks: int
    samples: int
    wall: float
    processor: float
    megabytes: float

    @property
    def throughput(self) -> float:
        return self.samples / self.wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["10M", "50M"], choices=list(SIZES))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--local-batch", type=int, default=8, help="samples of a rank")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, help="file of the rows, as JSON")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strategy, ranks in (("ddp", 1), ("ddp", options.ranks), ("fsdp", options.ranks)):
            base = measured(Path(folder), "tiny", strategy, ranks, options.local_batch, 4)
            for network in options.networks:
                row = measured(Path(folder), network, strategy, ranks, options.local_batch, options.steps)
                rows.append(Row(**{**asdict(row), "megabytes": row.megabytes - base.megabytes}))
                print(rows[-1], flush=True)
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def table(rows: list[Row]) -> str:
    """Rows in Markdown; efficiency is the throughput of a rank by that of one alone."""
    alone = {row.network: row for row in rows if row.ranks == 1}
    lines = [
        "| network | strategy | ranks | samples/s | efficiency | processor s a sample | MB a rank |",
        "|" + "---|" * 7,
    ]
    for row in sorted(rows, key=lambda row: row.network):
        efficiency = row.throughput / row.ranks / alone[row.network].throughput
        lines.append(
            f"| {row.network} | {row.strategy} | {row.ranks} | {row.throughput:.2f} | {efficiency:.2f} | "
            f"{row.processor / row.samples:.3f} | {row.megabytes:,.0f} |"
        )
    return "\n".join(lines)


def measured(folder: Path, network: str, strategy: str, ranks: int, local: int, steps: int) -> Row:
    """Train twice, `steps` and three times as many."""
    short, long = (train(folder, network, strategy, ranks, local, count) for count in (steps, 3 * steps))
    processor = (long[1] - short[1]) / (2 * steps)
    return Row(network, strategy, ranks, ranks * local, statistics.median(long[0][2:]), processor, long[2])


def train(
    folder: Path, network: str, strategy: str, ranks: int, local: int, steps: int
) -> tuple[list[float], float, float]:
    """Seconds of each step, processor seconds of all ranks, and the first rank's peak of memory in megabytes."""
    width, depth = SIZES[network]
    recipe = {
        "name": f"ranks-{network.lower()}",
        "data": {"type": "markov", "vocab_size": 256, "length": 64, "size": 4096},
        "process": "masked",
        "backbone": {"type": "transformer", "width": width, "depth": depth, "heads": max(1, width // 64)},
        "objective": "denoising",
        "train": {"steps": steps, "batch_size": ranks * local, "device": "cpu", "log_every": 1},
        "parallel": {"strategy": strategy},
    }
    run = folder / f"{network}-{strategy}-{ranks}-{steps}"
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # What is freed goes back to the system, so that the peak is that of tensors and not of holes between them.
    freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    shared = {**os.environ, **freed, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if ranks > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "fewstep", "train", str(file), "--run-dir", str(run)]
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.DEVNULL) for rank in range(ranks)
    ]
    seconds = 0.0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"a rank of {run.name} failed")
        seconds += usage.ru_utime + usage.ru_stime
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [later["seconds"] - earlier["seconds"] for earlier, later in pairwise(lines)]
    return times, seconds, max(line["peak_memory_mb"] for line in lines)


if __name__ == "__main__":
    main()
