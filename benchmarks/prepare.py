"""How fast and how flat `fewstep data prepare` is on a text of any size, and whether kills change what it writes.

    python benchmarks/prepare.py --gigabytes 2 --kills 10 --folder FOLDER

The text is made by a seed: documents of sentences, and sentences of words of a Zipf law. It is prepared once
undisturbed, with the rate and the memory of all processes noted; then again, killed (SIGKILL, the whole process group)
at random moments and started again each time; all files of both folders must be the same to the byte. Both folders
and the text are deleted.
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
    """JSON lines, `size` bytes of them: documents of 1 to 100 sentences out of 20,000."""
    generator = np.random.default_rng(seed)
    words = ["".join(generator.choice(list(_LETTERS), n)) for n in 1 + generator.poisson(4, _WORDS)]
    drawn = np.minimum(generator.zipf(1.2, 400_000), _WORDS) - 1
    sentences = [" ".join(words[i] for i in part) + ". " for part in drawn.reshape(-1, 20)]
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
    """MiB of all processes of a group that are theirs alone or shared, counted once (PSS); without mapped files."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                lines = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        except (OSError, ValueError):
            continue
    return total / 1024


def watch(process: subprocess.Popen[bytes], work: Path) -> list[tuple[float, int, float]]:
    """(seconds, shards, MiB) twice a second, until the process ends."""
    begun, seen = time.monotonic(), []
    while process.poll() is None:
        shards = len(list(work.glob("*.record")))
        seen.append((time.monotonic() - begun, shards, memory(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return seen


def table(seen: list[tuple[float, int, float]]) -> None:
    """Rate and memory of each fifth of the shards, from the first one that was done on."""
    last = max(count for _, count, _ in seen)
    edges = sorted({1 + (last - 1) * fifth // 5 for fifth in range(6)})
    print("| shards | seconds | MB/s of text | memory, MiB (largest) |\n|---|---|---|---|")
    for low, high in itertools.pairwise(edges):
        begin, end = (next(t for t, count, _ in seen if count >= edge) for edge in (low, high))
        most = max(m for t, _, m in seen if begin <= t <= end)
        rate = (high - low) * SHARD / 1e6 / max(end - begin, 1e-9)
        print(f"| {low} to {high} | {end - begin:.0f} | {rate:.1f} | {most:.0f} |", flush=True)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file) for file in sorted(folder.iterdir())}


def killed(recipe: Path, folder: Path, kills: int, between: float, workers: int, seed: int) -> int:
    """Prepare with `kills` kills, each `between` / 2 to 3 `between` / 2 seconds after a start; how many there were."""
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
        help="seconds between two kills, on average; all of them in the undisturbed time if left out",
    )
    parser.add_argument("--at-once", action="store_true", help="both at the same time, where time is short")
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
        rest = {"process": "masked", "backbone": "transformer", "objective": "denoising", "train": {"steps": 1}}
        recipe.write_text(json.dumps({"name": name, "data": data, **rest}))
        recipes.append(recipe)
    kills: list[int] = []
    usual = 300.0  # a guess, for --at-once

    def disturbed() -> None:
        between = options.between or usual / max(1, options.kills)
        kills.append(killed(recipes[1], folders[1], options.kills, between, options.workers, options.seed))

    again = threading.Thread(target=disturbed)
    if options.at_once:
        again.start()
    begun = time.monotonic()
    seen = watch(start(recipes[0], options.workers), options.folder / "plain.unfinished")
    usual = time.monotonic() - begun
    print(f"{text.stat().st_size / 1e9:.2f} GB, {options.workers} workers, {options.tokenizer}: {usual:.0f} s")
    table(seen)
    if not options.at_once:
        again.start()
    again.join()
    same = hashes(folders[0]) == hashes(folders[1])
    print(
        f"killed {kills[0]} times: {len(hashes(folders[0]))} files, {'the same' if same else 'DIFFERENT'} to the byte"
    )
    shutil.rmtree(options.folder)
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
