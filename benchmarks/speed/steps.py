"""A step of D-MMD over a step of denoising, and the memory of an iteration.

A step is the loss, its backward pass, clipping and the update of the networks that it trains. The backbone and the
batch are the same, and all times are 1/2. By products of matrices alone an alternating iteration costs 5/3 of a
denoising step, and a simultaneous one, which updates both networks, 7/3.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import torch
from games import Size, game
from rows import Row, interleaved, paired

from fewstep.runtime.memory import peak_megabytes

SIZES = {
    Size(256, 256, 8, 256, 4): (1.70, 1.70),
    Size(8192, 256, 2, 384, 4): (1.75, 1.80),
    Size(50_257, 256, 1, 512, 4): (1.75, 1.75),
}
"""Goals of an iteration on the masked and on the uniform process."""
SIMULTANEOUS = 2.45
QUICK = {Size(256, 64, 4, 64, 2): (1.9, 1.9)}
PEAK = Size(50_257, 1024, 8, 512, 4)
PEAK_GOAL = 12.0
"""GiB of an iteration at `PEAK`."""


def measure(quick: bool) -> Iterator[Row]:
    """Ratios to a denoising step, and the peak of an iteration in GiB."""
    rounds = 5 if quick else 7
    for size, goals in (QUICK if quick else SIZES).items():
        for process, goal in zip(("masked", "uniform"), goals, strict=True):
            players = {
                "denoising": game({"type": "denoising"}, process, size),
                "iteration": game({"type": "dmmd"}, process, size),
                "simultaneous": game({"type": "dmmd", "updates": "simultaneous"}, process, size),
            }
            seconds = interleaved({name: player.iteration for name, player in players.items()}, rounds)
            for name, best in (("iteration", goal), ("simultaneous", SIMULTANEOUS)):
                ratios = paired(seconds[name], seconds["denoising"])
                yield Row.of("steps", f"dmmd {name} / denoising, {process}, {size}", ratios, goal=best)
    if not quick:
        command = [sys.executable, __file__]
        peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        yield Row.of("steps", f"GiB of a dmmd iteration, masked, {PEAK}", [peak], goal=PEAK_GOAL, tolerance=0.1)


def main() -> None:
    """Print the most resident memory of a process that makes one iteration at `PEAK`, in GiB."""
    torch.set_num_threads(1)
    game({"type": "dmmd"}, "masked", PEAK).cycle()
    print(peak_megabytes(torch.device("cpu")) / 1024)


if __name__ == "__main__":
    main()
