"""Time of a step of D-MMD over a step of denoising: `python benchmarks/steps.py --out FILE` writes a table.

A step is the loss, its backward pass, clipping and the update of the networks that it trains. The backbone and the
batch are the same, and all times are 1/2, since the share of masks sets the cost of a masked process's head. By
products of matrices alone an alternating iteration costs 5/3 of a denoising step, and a simultaneous one, which updates
both networks, 7/3. Times are processor time of this process in interleaved rounds. With `--peak` the memory of one
iteration is measured instead.

Shapes: B batch, L tokens, V vocabulary, D width.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from ratios import quartiles, resident
from torch import Generator, Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.base import Network
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, Objective, Phase, StepContext
from fewstep.processes.base import PROCESSES
from fewstep.runs.environment import describe_environment

SIZES = {
    "256": (256, 256, 8, 256, 4),
    "8192": (8192, 256, 2, 384, 4),
    "50257": (50_257, 256, 1, 512, 4),
}
"""V, L, B, D and number of blocks."""


class Fixed(StepContext):
    """A context in which every time is drawn as 1/2."""

    def sample_time(self, count: int, *, antithetic: bool = False) -> Tensor:
        return torch.full((count,), 0.5, device=self.device)


class Game:
    """An objective with networks and optimisers."""

    def __init__(self, objective: Objective, process: str, size: tuple[int, int, int, int, int]) -> None:
        vocab, length, batch, width, depth = size
        torch.manual_seed(0)
        self.objective, self.processes = objective, PROCESSES.build(process, vocab_size=vocab)
        tokens = TokenSpace(self.processes.num_states, vocab, length, None)
        config = {"type": "dit", "width": width, "depth": depth, "heads": width // 64}
        self.roles: dict[str, Network] = {
            name: NetworkDenoiser(BACKBONES.build(config, tokens=tokens), self.processes) for name in objective.roles
        }
        trained = [name for name, role in objective.roles.items() if role.trained]
        self.optimizers = {name: torch.optim.AdamW(self.roles[name].parameters(), fused=True) for name in trained}
        generators = {name: Generator().manual_seed(1) for name in ("time", "noise", "sample")}
        self.ctx = Fixed(self.roles, self.processes, generators, torch.device("cpu"))
        self.ctx.batch = self.ctx.as_batch(torch.randint(vocab, (batch, length)))

    def step(self, phase: Phase) -> float:
        """Seconds of processor time."""
        for name, role in self.roles.items():
            role.take_gradients(name in phase.train)
        begin = time.process_time()
        assert self.ctx.batch is not None
        self.objective.loss(phase, self.ctx.batch, self.ctx).loss.backward()
        for name in phase.train:
            torch.nn.utils.clip_grad_norm_(self.roles[name].parameters(), 1.0)
            self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)
        return time.process_time() - begin

    def cycle(self) -> list[float]:
        """Seconds of each phase."""
        return [self.step(phase) for phase in self.objective.phases()]


def games(process: str, size: tuple[int, int, int, int, int]) -> dict[str, Game]:
    return {
        "denoising": Game(OBJECTIVES.build({"type": "denoising"}), process, size),
        "alternating": Game(OBJECTIVES.build({"type": "dmmd"}), process, size),
        "simultaneous": Game(OBJECTIVES.build({"type": "dmmd", "updates": "simultaneous"}), process, size),
    }


def measure(process: str, size: tuple[int, int, int, int, int], repeats: int) -> dict[str, list[float]]:
    """Ratios of rounds to the denoising step: of student, auxiliary, their mean, and both at once."""
    players, rng = games(process, size), random.Random(0)
    ratios: dict[str, list[float]] = {name: [] for name in ("student", "auxiliary", "iteration", "simultaneous")}
    for number in range(repeats + 1):
        seconds = {name: players[name].cycle() for name in rng.sample(list(players), len(players))}
        if not number:
            continue
        (base,), (student, auxiliary), (both,) = (seconds[name] for name in players)
        ratios["student"].append(student / base)
        ratios["auxiliary"].append(auxiliary / base)
        ratios["iteration"].append((student + auxiliary) / 2 / base)
        ratios["simultaneous"].append(both / base)
    return ratios


def peak(process: str, size: tuple[int, int, int, int, int]) -> str:
    """Most resident memory of the process in an alternating iteration, networks and moments included."""
    game = Game(OBJECTIVES.build({"type": "dmmd"}), process, size)
    seconds = game.cycle()
    most = resident("VmHWM") / 2**30
    name = f"V {size[0]:,}, L {size[1]:,}, B {size[2]}, D {size[3]}, {size[4]} blocks, {process}"
    return f"{name}: {most:.2f} GiB, seconds {', '.join(f'{value:.0f}' for value in seconds)}"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--processes", nargs="+", default=["masked", "uniform"])
    parser.add_argument("--repeats", type=int, default=7, help="rounds after one to warm up")
    parser.add_argument("--peak", type=int, nargs=5, metavar=("V", "L", "B", "D", "BLOCKS"), help="measure memory only")
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak(arguments.processes[0], tuple(arguments.peak)))
        return
    about = describe_environment()
    lines = [
        f"Over a denoising step; {about['hardware']}, {torch.get_num_threads()} threads, n = {arguments.repeats}, "
        f"commit {about['commit']}",
        "",
        "| network and batch | process | student | auxiliary | iteration | simultaneous |",
        "|---|---|---|---|---|---|",
    ]
    for key in arguments.sizes:
        vocab, length, batch, width, depth = SIZES[key]
        for process in arguments.processes:
            ratios = measure(process, SIZES[key], arguments.repeats)
            name = f"V {vocab:,}, L {length}, B {batch}, D {width}, {depth} blocks"
            lines.append(f"| {name} | {process} | {' | '.join(map(quartiles, ratios.values()))} |")
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
