"""Speed and memory of `fewstep data prepare` on a text of any size, and its output after interruptions.

    python benchmarks/prepare.py --gigabytes 2 --kills 10 --folder FOLDER

The text is generated from a seed: documents of sentences, with words of a Zipf distribution. It is prepared once
without interruption, while rate and memory of all processes are recorded. Then it is prepared again, interrupted
(SIGKILL to the process group) at random moments and restarted each time. All files of both folders must be
byte-identical. Both folders and the text are deleted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from fewstep.runtime.hashing import sha256

SHARD = 1 << 25
"""`data.shard_bytes`."""
_WORDS, _LETTERS = 5_000, "etaoinshrdlucmfwypvbgkqjxz"


def write_text(file: Path, size: int, seed: int) -> None:
    """Write `size` bytes of JSON lines: documents of 1 to 100 sentences out of 20,000."""
    generator = np.random.default_rng(seed)
    words = ["".join(generator.choice(list(_LETTERS), n)) for n in 1 + generator.poisson(4, _WORDS)]
    indices = np.minimum(generator.zipf(1.2, 400_000), _WORDS) - 1
    sentences = [" ".join(words[i] for i in part) + ". " for part in indices.reshape(-1, 20)]
    written = 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            for length in generator.integers(1, 101, 1000):
                text = "".join([sentences[i] for i in generator.integers(len(sentences), size=length)])
                written += out.write(f'{{"text": "{text}"}}\n')


def start(recipe: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fewstep", "data", "prepare", str(recipe), "--workers", str(workers)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def memory(group: int) -> float:
    """Memory of a process group in MiB (PSS, which counts shared pages once), without mapped files."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        except (OSError, ValueError):
            continue
    return total / 1024


def watch(process: subprocess.Popen[bytes], staging: Path) -> list[tuple[float, int, float]]:
    """(seconds, shards, MiB) twice a second, until the process ends."""
    start, samples = time.monotonic(), []
    while process.poll() is None:
        shards = len(list(staging.glob("*.record")))
        samples.append((time.monotonic() - start, shards, memory(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return samples


def table(samples: list[tuple[float, int, float]]) -> None:
    """Print rate and memory of each fifth of the shards, after the first one."""
    last = max(count for _, count, _ in samples)
    edges = sorted({1 + (last - 1) * fifth // 5 for fifth in range(6)})
    print("| shards | seconds | MB/s of text | memory, MiB (largest) |\n|---|---|---|---|")
    for low, high in itertools.pairwise(edges):
        begin, end = (next(t for t, count, _ in samples if count >= edge) for edge in (low, high))
        most = max(m for t, _, m in samples if begin <= t <= end)
        rate = (high - low) * SHARD / 1e6 / max(end - begin, 1e-9)
        print(f"| {low} to {high} | {end - begin:.0f} | {rate:.1f} | {most:.0f} |", flush=True)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def prepare_interrupted(recipe: Path, folder: Path, kills: int, between: float, workers: int, seed: int) -> int:
    """Prepare with up to `kills` kills, each 0.5 to 1.5 times `between` seconds after a start. Returns their number."""
    generator, starts = random.Random(seed), 0
    while not folder.exists():
        starts += 1
        process = start(recipe, workers)
        if starts <= kills:
            try:
                process.wait(generator.uniform(0.5, 1.5) * between)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return starts - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", default="byte")
    parser.add_argument(
        "--between",
        type=float,
        help="mean seconds between two kills; if left out, all of them within the time of the first preparation",
    )
    parser.add_argument("--at-once", action="store_true", help="run both preparations at the same time")
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    text = options.folder / "text.jsonl"
    write_text(text, int(options.gigabytes * 1e9), options.seed)
    recipes, folders = [], []
    for name in ("plain", "killed"):
        folders.append(options.folder / name)
        recipe = options.folder / f"{name}.yaml"
        data = {"type": "corpus", "path": str(text), "tokenizer": options.tokenizer, "prepared": str(folders[-1])}
        sections = {"process": "masked", "backbone": "transformer", "objective": "denoising", "train": {"steps": 1}}
        recipe.write_text(json.dumps({"name": name, "data": data, **sections}))
        recipes.append(recipe)
    kills: list[int] = []
    duration = 300.0  # an estimate, for --at-once

    def interrupted() -> None:
        between = options.between or duration / max(1, options.kills)
        kills.append(prepare_interrupted(recipes[1], folders[1], options.kills, between, options.workers, options.seed))

    second = threading.Thread(target=interrupted)
    if options.at_once:
        second.start()
    start_time = time.monotonic()
    samples = watch(start(recipes[0], options.workers), options.folder / "plain.unfinished")
    duration = time.monotonic() - start_time
    print(f"{text.stat().st_size / 1e9:.2f} GB, {options.workers} workers, {options.tokenizer}: {duration:.0f} s")
    table(samples)
    if not options.at_once:
        second.start()
    second.join()
    same = hashes(folders[0]) == hashes(folders[1])
    print(f"interrupted {kills[0]} times: {len(hashes(folders[0]))} files, {'byte-identical' if same else 'DIFFERENT'}")
    shutil.rmtree(options.folder)
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
