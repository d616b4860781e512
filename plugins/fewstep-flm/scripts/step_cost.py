"""Time of one step of `flow_map` against that of its networks alone.

python plugins/fewstep-flm/scripts/step_cost.py [vocabulary]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from fewstep import OBJECTIVES, PROCESSES
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.runtime.streams import SampleStreams

BATCH, L = 128, 32


def main() -> None:
    vocab = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    process = PROCESSES.build("onehot_gaussian", vocab_size=vocab)

    def network(*, two_times: bool) -> NetworkDenoiser:
        config = {"type": "transformer", "width": 64, "depth": 3, "heads": 2, "time_conditioned": True}
        backbone = BACKBONES.build(config, tokens=TokenSpace(vocab, vocab, L))
        step = StepInput(StepInputConfig(form="linear"), 64) if two_times else None
        return NetworkDenoiser(backbone, process, step_input=step)

    roles = {"teacher": network(two_times=False), "student": network(two_times=True), "target": network(two_times=True)}
    streams = {
        name: SampleStreams(0, range(BATCH), purpose=name, batch=range(BATCH)) for name in ("time", "noise", "sample")
    }
    ctx, objective = StepContext(roles, process, streams, torch.device("cpu")), OBJECTIVES.build("flow_map")
    (phase,) = objective.phases()
    for name, role in roles.items():
        role.take_gradients(name in phase.train)
    batch = Batch(torch.randint(vocab, (BATCH, L)))
    state, half = process.prior((BATCH, L), device="cpu", generator=None), BATCH // 2
    t = torch.linspace(0.1, 0.9, BATCH)

    def step() -> None:
        objective.loss(phase, batch, ctx).loss.backward()
        objective.after_step(phase, ctx)

    def networks() -> None:
        """The student forward and backward, and three passes of half a batch, all with their rows."""
        roles["student"](state, t, t / 2).nll(batch.x0).mean().backward()
        with torch.no_grad():
            for role, times in (("teacher", (t[:half],)), *[("target", (t[:half], t[:half] / 2))] * 2):
                roles[role](state[:half], *times).dense_probs()

    def timed(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    pairs = [(timed(step), timed(networks)) for _ in range(33)][3:]
    ours, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
    prior = [timed(lambda: process.prior((BATCH, L), device="cpu", generator=streams["noise"])) for _ in range(9)]
    noise = 1e3 * statistics.median(prior)
    print(f"V {vocab}: a step {ours:.0f} ms, of which noise {noise:.0f} ms; its networks alone {theirs:.0f} ms")


if __name__ == "__main__":
    main()
