"""Part 2: speed and memory of trainings of text backbones on random tokens, through the trainer's own step.

MFU is model FLOPs (`flops.Shape.step`) by time, over the GPU's dense bf16 peak.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import planned_memory
import torch
from cases import Case, Outcome, Setting
from flops import Shape, known_peak
from measuring import product_rate, seconds
from networks import MODES, WORK, check_mode, network, process_of, trainer

from fewstep.core.errors import is_out_of_memory
from fewstep.runtime.memory import peak_megabytes, reset_peak
from fewstep.training.trainer import Trainer

PEAK = "peak"
LARGE, SMALL = "125 M", "30 M"
"""Trunk and one embedding of GPT-2's vocabulary; the head, which is not tied to it, comes on top."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measured trainings."""

    shapes: dict[str, Shape]
    length: int
    vocab: int
    batch: int
    rounds: int
    """Rounds of phases in a window: ten, of which one also measures diagnostics, as in a real training."""
    product: int


FULL = Sizes({LARGE: Shape(768, 12, 12), SMALL: Shape(384, 6, 6)}, 1024, 50_257, 32, 10, 8192)
SHORT = Sizes({LARGE: Shape(32, 2, 2), SMALL: Shape(16, 1, 1)}, 32, 97, 4, 1, 256)


def sizes(setting: Setting) -> Sizes:
    return SHORT if setting.short else FULL


def cases(setting: Setting) -> Iterator[Case]:
    """What goals are about comes first, and last what is compiled for no goal: each network is compiled anew."""
    yield Case(PEAK, 3, partial(peak, setting))
    s = sizes(setting)
    planning = partial(planned_memory.planned, setting, s.shapes[LARGE], s.length, s.vocab)
    yield Case("memory by plan", planned_memory.SECONDS, planning)
    first, others = ("denoising", "dmmd"), [work for work in WORK if work not in ("denoising", "dmmd")]
    ways = [(LARGE, work, mode) for mode in ("off", "trunk") for work in first]
    ways += [(SMALL, work, "off") for work in first] + [(LARGE, work, "off") for work in others]
    ways += [(SMALL, work, "trunk") for work in first] + [(SMALL, work, "off") for work in others]
    ways += [(size, work, "step") for size in (LARGE, SMALL) for work in first]
    ways += [(size, work, mode) for mode in MODES[1:] for size in (LARGE, SMALL) for work in others]
    if setting.short:  # two minutes of compiling show nothing that one does not
        ways = [way for way in ways if way[2] == "off" or way == (SMALL, "denoising", "trunk")]
    for size, work, mode in ways:
        yield Case(name(size, work, mode), _estimate(size, work, mode), partial(training, setting, size, work, mode))


def name(size: str, work: str, mode: str) -> str:
    """Name of a training's case."""
    return f"{size}, {work}, compile {mode}"


def _estimate(size: str, work: str, mode: str) -> float:
    """Seconds that a training takes: its steps, and a graph for each network, with and without gradients."""
    graphs = {"off": 0, "trunk": 1, "step": 2}[mode] * (1 if work == "denoising" else 3)
    return (15 if size == LARGE else 6) + graphs * (15 if size == LARGE else 8)


def peak(setting: Setting) -> Outcome:
    """FLOP/s that MFU is measured against, and what a large product reaches."""
    measured = product_rate(setting.device, sizes(setting).product)
    hardware = torch.cuda.get_device_name() if setting.device.type == "cuda" else "CPU"
    known = known_peak(hardware)
    source = "datasheet, dense bf16" if known else "that product, since the datasheet's peak is not known here"
    text = f"a large bf16 product reaches {measured / 1e12:,.1f} TFLOP/s; MFU is of {(known or measured) / 1e12:,.1f}"
    return Outcome(f"{text} ({source})", {"measured": measured, "flops": known or measured, "known": bool(known)})


def training(setting: Setting, size: str, work: str, mode: str) -> Outcome:
    """Steps of a training, with the largest batch that fits."""
    check_mode(mode)
    batch = sizes(setting).batch
    while True:
        try:
            return _measure(setting, size, work, mode, batch)
        except Exception as error:
            if not is_out_of_memory(error) or batch == 1:
                raise
        batch //= 2
        torch.cuda.empty_cache()


def _measure(setting: Setting, size: str, work: str, mode: str, batch: int) -> Outcome:
    s, device = sizes(setting), setting.device
    shape, process = s.shapes[size], process_of(WORK[work][0], s.vocab)
    compiling: list[str] = []
    run = trainer(
        work,
        network(shape, process, s.length, device),
        batch=batch,
        folder=setting.work,
        device=device,
        precision="bf16",
        compile=mode,
        rows=8 * batch,
        echo=compiling.append,
    )
    cycle = len(run.turns.cycle)
    for _ in range(2 * cycle):
        _step(run)
    reset_peak(device)
    step = seconds(lambda: _step(run), device, calls=s.rounds * cycle, windows=1 if setting.short else 3)
    memory = peak_megabytes(device) / 1024
    run._check_finite()
    run.loader.close()
    tokens = batch * s.length
    share = 0.5 if process.carry_over else 1.0  # times are uniform, and the share of masks is the time
    flops = shape.step(work, tokens=tokens, length=s.length, vocab=s.vocab, share=share)
    values = {
        "ms": 1e3 * step,
        "tokens_per_second": tokens / step,
        "flops": flops,
        "memory_gib": memory,
        "batch": batch,
        "parameters": sum(p.numel() for p in run.roles["student"].parameters()),
        "compile_seconds": _seconds_of(compiling),
    }
    rate = flops / step
    text = f"{values['ms']:,.1f} ms a step, {values['tokens_per_second']:,.0f} tokens/s, {rate / 1e12:,.2f} TFLOP/s, "
    text += f"{memory:,.1f} GiB, batch {batch}"
    return Outcome(text + (f", compiled in {values['compile_seconds']} s" if mode != "off" else ""), values)


def _step(run: Trainer) -> None:
    assert run._step(), "a training on random tokens went back to a checkpoint"


def _seconds_of(lines: list[str]) -> int:
    """Seconds of compiling that the lines of a training tell."""
    return sum(int(found[1]) for line in lines if (found := re.search(r"in (\d+) s$", line)))
