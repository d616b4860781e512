"""Processor time of a step of `learned_order` over that of its networks, on one core.

    python plugins/fewstep-orders/benchmarks/step_cost.py [STEPS]

The networks' time is that of the clean pass, of the noised states, of cross entropy, of both heads, and of their
gradients; what the loss adds are draws, rates and reductions. Both are medians, measured in turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from fewstep_orders.exponents import ExponentClock
from fewstep_orders.learned_order import LearnedOrder
from fewstep_orders.network import OrderedDenoiser

from fewstep import BACKBONES, PROCESSES
from fewstep.backbones.base import TokenSpace
from fewstep.objectives.base import Batch, StepContext
from fewstep.runtime.streams import SampleStreams

VOCAB, LENGTH, BATCH = 8, 16, 128


def main(steps: int) -> None:
    """Print the milliseconds of both, and the share that the loss adds."""
    torch.set_num_threads(1)
    objective = LearnedOrder(LearnedOrder.Config())
    process = PROCESSES.build("masked", vocab_size=VOCAB)
    tokens = TokenSpace(process.num_states, VOCAB, LENGTH)
    config = {"type": "transformer", "width": 64, "depth": 2, "heads": 4}
    student = OrderedDenoiser(BACKBONES.build(config, tokens=tokens), process)
    student.take_order(objective.config.family())
    x0 = torch.randint(VOCAB, (BATCH, LENGTH))

    def step() -> None:
        streams = {name: SampleStreams(0, range(BATCH), purpose=name) for name in ("time", "noise", "sample")}
        ctx = StepContext({"student": student}, process, streams, torch.device("cpu"))
        objective.loss(objective.phases()[0], Batch(x0), ctx).loss.backward()

    t = (torch.arange(BATCH) + 0.5) / BATCH
    z = process.corrupt(x0.repeat(2, 1), t.repeat(2), generator=None).x_t

    def networks() -> None:
        forward, prediction = student.forward_exponents(x0), student(z, t.repeat(2))
        assert isinstance(prediction.clock, ExponentClock)
        nll = prediction.nll(x0.repeat(2, 1)).mean()
        (nll + forward.square().mean() + prediction.clock.exponents.square().mean()).backward()

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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
