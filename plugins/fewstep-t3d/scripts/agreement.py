"""Agreement of one step a block with the teacher's roll-outs, log p of both and their entropy, on a Markov source.

    python plugins/fewstep-t3d/scripts/agreement.py TEACHER STUDENT [STUDENT ...]

TEACHER and STUDENT are run folders, or exported ones. Prompts are new samples of the source.
"""

from __future__ import annotations

import sys

import torch
from fewstep_t3d.agreement import agreement, block_log_probs, redrawn_blocks
from fewstep_t3d.trajectories import roll_out

from fewstep import METRICS, SAMPLERS, open_model
from fewstep.data.synthetic.markov import Markov
from fewstep.runtime.streams import SampleStreams

COUNT, FREE = 2000, 4000
ROLL_OUT = {"type": "block", "inner": "confidence", "temperature": 0.1}


def main(teacher_run: str, student_runs: list[str]) -> None:
    teacher = open_model(teacher_run, device="cpu")
    source, size = teacher.dataset, teacher.denoiser.block_size
    assert isinstance(source, Markov)
    assert size is not None
    sampler = SAMPLERS.build(ROLL_OUT)
    prompt = source.draw(COUNT, torch.Generator().manual_seed(1))
    prompt[:, size:] = -1
    x, _ = roll_out(sampler, teacher.denoiser, prompt, steps=size, generator=SampleStreams(1, range(COUNT)))
    own = float(block_log_probs(source, x, x, size, 1).mean())
    print(f"roll-outs, {size} steps: log p {own:.2f} a block, entropy {entropy(source, x):.3f}")
    print("| one step a block | agreement | log p | entropy | n-gram TV at temperature 1: 1 step, 4 steps |")
    for run in [teacher_run, *student_runs]:
        network = open_model(run, device="cpu").denoiser
        y = redrawn_blocks(sampler, network, x, steps=1, first=1)
        same, log_p = float(agreement(x, y, size, 1).mean()), float(block_log_probs(source, y, x, size, 1).mean())
        distances = ", ".join(f"{ngram_tv(source, free(network, steps)):.3f}" for steps in (1, 4))
        print(f"| {run} | {same:.3f} | {log_p:.2f} | {entropy(source, y):.3f} | {distances} |", flush=True)


def free(network: torch.nn.Module, steps: int) -> torch.Tensor:
    """Samples at temperature 1 without a prompt."""
    return (
        SAMPLERS.build("block_ancestral").sample(network, FREE, steps=steps, generator=SampleStreams(2, range(FREE))).x
    )


def entropy(source: Markov, x: torch.Tensor) -> float:
    metric = METRICS.build("sample_entropy", dataset=source)
    metric.update(x)
    return float(metric.compute()["sample_entropy"])


def ngram_tv(source: Markov, x: torch.Tensor) -> float:
    metric = METRICS.build("ngram_distance", dataset=source)
    metric.update(x)
    return float(metric.compute()["ngram_tv"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
