"""Processor time of a step of `step_budget` over that of its networks, on one core.

    python plugins/fewstep-budget/scripts/step_cost.py [STEPS] [WIDTH]

The networks' time is that of the four passes of the average and of the student's, forward and back, on as many samples
as the loss has at its longer steps, and of the student's pass on the others. What the loss adds are jumps, means of
stages and reductions. Both are medians, measured in turns.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch

from fewstep import BACKBONES, OBJECTIVES, PROCESSES
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.runtime.streams import SampleStreams

VOCAB, LENGTH, BATCH = 8, 16, 128


def main(steps: int, width: int) -> None:
    """Print the milliseconds of both, and the share that the loss adds."""
    torch.set_num_threads(1)
    objective = OBJECTIVES.build({"type": "step_budget", "shortest": 1 / 64})
    process = PROCESSES.build("uniform", vocab_size=VOCAB)
    config = {"type": "transformer", "width": width, "depth": 3, "heads": 2, "time_conditioned": True}
    backbone = BACKBONES.build(config, tokens=TokenSpace(process.num_states, VOCAB, LENGTH))
    student = NetworkDenoiser(backbone, process, step_input=StepInput(StepInputConfig(), width))
    target = copy.deepcopy(student).requires_grad_(False)
    x0 = torch.randint(VOCAB, (BATCH, LENGTH))

    def context() -> StepContext:
        streams = {name: SampleStreams(0, range(BATCH), purpose=name) for name in ("time", "noise", "sample")}
        return StepContext({"student": student, "target": target}, process, streams, torch.device("cpu"))

    def step() -> None:
        objective.loss(objective.phases()[0], Batch(x0), context()).loss.backward()

    t, length = objective.steps(BATCH, context())  # type: ignore[attr-defined]
    long = length > 1 / 64
    z, t, s = process.corrupt(x0, t, generator=None).x_t, t.float(), (t - length).float()

    def networks() -> None:
        with torch.no_grad():
            stages = [target(z[long], t[long], s[long]) for _ in range(4)]
            rows = [stage.log_probs() for stage in stages]
        longer = student(z[long], t[long], s[long]).cross_entropy(stages[0]).sum()
        (longer + student(z[~long], t[~long], s[~long]).nll(x0[~long]).sum() + 0 * rows[0].sum()).backward()

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
