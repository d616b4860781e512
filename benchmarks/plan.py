"""Planned over measured memory of trainings on the CPU: `python benchmarks/plan.py --out FILE` writes a table.

Each case is a process of its own. It trains two tiny steps, so that all code is loaded, and then a few rounds of phases
of the case. Measured is the most resident memory above that before the case, with a heap for small pieces only
(MALLOC_MMAP_THRESHOLD_=65536): without it glibc keeps freed memory, with holes, a quarter more in the first case. A GPU
counts memory that lives, too (`torch.cuda.max_memory_allocated`).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from fewstep.objectives.base import OBJECTIVES
from fewstep.planning.hardware import gpu_named
from fewstep.planning.machine import Request
from fewstep.planning.outline import build
from fewstep.planning.plan import make_plan
from fewstep.recipe import load_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.build import build_process
from fewstep.runs.environment import describe_environment
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, build_dataset
from fewstep.runtime.memory import peak_megabytes, reset_peak
from fewstep.training.assemble import Parts
from fewstep.training.trainer import Trainer

WORK = {
    "denoising": ["text-teacher"],
    "dmmd, alternating": ["text-dmmd", "objective.updates=alternating"],
    "dmmd, simultaneous": ["text-dmmd"],
    "sdtt": ["text-sdtt"],
    "denoising, sparse supervision": ["text-teacher", "supervision={type: sparse}"],
    "dmmd, warm-up": ["text-dmmd", "noise_input=stable", "objective.warmup={share: 0.5}", "train.steps=6"],
    "dmmd, discriminator": ["text-dmmd", "objective.adversarial={trunk: true}"],
    "dmmd, teacher training": ["text-dmmd", "objective.teacher_training={every: 1}"],
    "rectified": ["text-uniform-rectified", "objective.pairs=512", "objective.teacher_steps=2"],
}
"""Recipe and settings of each training. Six steps are three of a warm-up and three of the game."""
SIZES = {
    "V 256, L 256, B 8, D 256, 4 blocks": (256, 256, 8, 256, 4),
    "V 8,192, L 128, B 8, D 256, 4 blocks": (8192, 128, 8, 256, 4),
    "V 50,257, L 128, B 4, D 256, 2 blocks": (50_257, 128, 4, 256, 2),
}
"""V, L, B, D and number of blocks."""
TINY = (64, 32, 4, 32, 1)
ROUNDS = 3


def recipe(work: str, size: tuple[int, int, int, int, int]) -> Recipe:
    """A recipe of random tokens."""
    vocab, length, batch, width, depth = size
    name, *sets = WORK[work]
    data = f"data={{type: token_ids, vocab_size: {vocab}, length: {length}, random: 64}}"
    backbone = f"backbone={{type: dit, width: {width}, depth: {depth}, heads: {max(1, width // 64)}}}"
    train = ["train.device=cpu", "train.precision=fp32", f"train.batch_size={batch}", "watch.times=0"]
    return load_recipe(name, [data, backbone, *train, *sets]).recipe


def train(recipe: Recipe, rounds: int) -> None:
    """Rounds of phases of a training, without log lines and checkpoints."""
    data = build_dataset(recipe)
    process, objective = build_process(recipe, data), build_component(OBJECTIVES, recipe.objective)
    roles = build(recipe, objective, data, process)
    run = RunDir.create("plan", tempfile.mkdtemp())
    training = Trainer(Parts(data, process, objective, roles), recipe.settings, run, echo=lambda line: None)
    training.objective.setup(training.ctx)
    for _ in range(rounds * len(training.turns.cycle)):
        training._step()
    training.loader.close()


def measure(work: str, size: str) -> float:
    """Megabytes of a training above those before it."""
    train(recipe(work, TINY), 2)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_megabytes(cpu)
    train(recipe(work, SIZES[size]), ROUNDS)
    return peak_megabytes(cpu) - before


def planned(work: str, size: str) -> float:
    """Megabytes of the same training by its plan."""
    plan = make_plan(recipe(work, SIZES[size]), Request(gpu_named("h100")), [False])
    return plan.options[0].total / 2**20


def child(work: str, size: str) -> float:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", work, size]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), help="measure only these trainings")
    parser.add_argument("--measure", nargs=2, metavar=("WORK", "SIZE"), help="print only what this case takes, in MiB")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(*arguments.measure))
        return
    about = describe_environment()
    lines = [
        "# Planned over measured memory",
        "",
        f"`python benchmarks/plan.py`, float32, backbone `dit`, {ROUNDS} rounds of phases in a process each; "
        f"{about['hardware']}, one thread, torch {torch.__version__}, commit {about['commit']}. MiB.",
        "",
        "| training | size | planned | measured | planned / measured |",
        "|---|---|---:|---:|---:|",
    ]
    for size in SIZES:
        for work in arguments.only:
            plan, peak = planned(work, size), child(work, size)
            lines.append(f"| {work} | {size} | {plan:,.0f} | {peak:,.0f} | {plan / peak:.3f} |")
            print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
