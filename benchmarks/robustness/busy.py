"""How fast a training is alone and beside busy processes, by how torch's threads wait for each other.

    python benchmarks/robustness/busy.py --rounds 3 --seconds 30 --out FILE

`fewstep` bounds the waiting unless the user has set it (framework/fewstep/runtime/threads.py); OpenMP's own default is
to spin. Each round trains `digits-teacher` on all cores in both ways, alone and beside one busy process for each core,
and reads the rate of the last line of the log. Medians over rounds; ratios are to OpenMP's own alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from small_runs import origin

WAYS = {"OpenMP's default": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}, "fewstep's default": {}}
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


def rate(way: dict[str, str], busy: int, seconds: float, folder: Path) -> float:
    """Tokens a second of a training that is stopped some seconds after its first line."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | way
    command = [sys.executable, "-m", "fewstep", "train", "digits-teacher", "--run-dir", str(folder)]
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    process = subprocess.Popen(
        [*command, "--set", "train.log_every=2", "--set", "train.checkpoint_every=100000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = folder / "metrics.jsonl"
    try:
        while not (log.exists() and log.read_text().count("\n") >= 2):
            if process.poll() is not None:
                raise SystemExit(f"the training ended by itself, with {process.returncode}")
            time.sleep(0.2)
        first = json.loads(log.read_text().splitlines()[-1])
        begun, begun_step = time.perf_counter(), first["step"]
        time.sleep(seconds)
        last = json.loads(log.read_text().splitlines()[-1])
        return 64 * 64 * (last["step"] - begun_step) / (time.perf_counter() - begun)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        for other in others:
            other.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for name in sorted(WAYS, reverse=bool(number % 2)):
            for busy in (0, cores):
                with tempfile.TemporaryDirectory(prefix="busy-") as folder:
                    rates[name, busy].append(rate(WAYS[name], busy, options.seconds, Path(folder) / "run"))
    base = statistics.median(rates["OpenMP's default", 0])
    lines = ["| threads wait by | beside | tokens a second | of the default alone |", "| --- | --- | ---: | ---: |"]
    for (name, busy), values in rates.items():
        middle = statistics.median(values)
        spread = f"{min(values):,.0f} to {max(values):,.0f}"
        beside = f"{busy} busy processes" if busy else "nothing"
        lines.append(f"| {name} | {beside} | {middle:,.0f} ({spread}) | {middle / base:.2f} |")
    text = "\n".join([*lines, "", origin("busy.py", 0)])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
