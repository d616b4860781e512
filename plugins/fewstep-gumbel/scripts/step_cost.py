"""Processor time of a step of `gumbel` over that of its networks, on one core.

    python plugins/fewstep-gumbel/scripts/step_cost.py [STEPS] [WIDTH]

The networks' time is that of the teacher's pass and of the student's, forward and back, with cross entropy and the rows
that are read. What the loss adds are masks, noise and reductions. Both are medians, measured in turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from fewstep_gumbel import GumbelDenoiser, GumbelDistillation, gumbel, with_noise
from torch import nn

from fewstep import BACKBONES, PROCESSES
from fewstep.backbones.base import TokenSpace
from fewstep.denoisers.base import NOTHING
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.likelihood.autoregressive import predict_next
from fewstep.objectives.base import Batch, StepContext
from fewstep.runtime.streams import SampleStreams

VOCAB, LENGTH, BATCH = 8, 16, 128


def main(steps: int, width: int) -> None:
    """Print the milliseconds of both, and the share that the loss adds."""
    torch.set_num_threads(1)
    objective, process = GumbelDistillation(), PROCESSES.build("masked", vocab_size=VOCAB)
    tokens = TokenSpace(process.num_states, VOCAB, LENGTH)
    size = {"width": width, "depth": 3, "heads": 2}
    blocks = BACKBONES.build({"type": "block_transformer", "block_size": 1, **size}, tokens=tokens)
    teacher = NetworkDenoiser(blocks, process).requires_grad_(False)
    student = GumbelDenoiser(BACKBONES.build({"type": "transformer", **size}, tokens=tokens), process)
    student.noise_map = nn.Linear(VOCAB, width, bias=False)
    x0 = torch.randint(VOCAB, (BATCH, LENGTH))

    def step() -> None:
        streams = {name: SampleStreams(0, range(BATCH), purpose=name) for name in ("time", "noise", "sample")}
        ctx = StepContext({"teacher": teacher, "student": student}, process, streams, torch.device("cpu"))
        objective.loss(objective.phases()[0], Batch(x0), ctx).loss.backward()

    t = objective.times(BATCH, StepContext({}, process, {"time": None}, torch.device("cpu")))
    z = process.corrupt(x0, t, generator=None).x_t
    cond = with_noise(NOTHING, gumbel((BATCH, LENGTH, VOCAB), None, device="cpu"))

    def networks() -> None:
        with torch.no_grad():
            predict_next(teacher, x0).log_probs()
        student(z, t, cond=cond).nll(x0).mean().backward()

    times: dict[Callable[[], None], list[float]] = {step: [], networks: []}
    for turn in range(steps + 3):
        for call, spent in times.items():
            start = time.process_time()
            call()
            if turn >= 3:
                spent.append(time.process_time() - start)
    whole, own = (1e3 * statistics.median(spent) for spent in times.values())
    print(f"step {whole:.1f} ms, networks {own:.1f} ms: the loss adds {whole / own - 1:.0%}")


if __name__ == "__main__":
    main(*(int(text) for text in (sys.argv[1:] + ["30", "64"][len(sys.argv) - 1 :])))
