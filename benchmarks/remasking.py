"""Remasked tokens and distance to the distribution, by strategy of `remdm`, with the exact denoiser of a Markov source.

The only errors are those of the sampler: tokens of one step do not see each other. Prints a table for docs/samplers.md.
"""

from __future__ import annotations

import argparse
from typing import Any, get_args

import torch
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.processes.base import PROCESSES
from fewstep.processes.masked import MaskedProcess
from fewstep.samplers.base import SAMPLERS, StepState
from fewstep.samplers.remdm import Strategy

V, L, N = 8, 16, 4


def four_gram_distance(source: Markov, x: Tensor) -> float:
    """Total variation between the 4-grams of samples [n, L] and the true distribution."""
    index = (x.unfold(1, N, 1) * V ** torch.arange(N - 1, -1, -1)).sum(-1).flatten()
    share = torch.bincount(index, minlength=V**N).double() / len(index)
    return float((share - source.ngram_probs(N).flatten()).abs().sum() / 2)


def measure(source: Markov, sampler: dict[str, Any], steps: int, count: int, seed: int) -> tuple[float, float]:
    """Remasked tokens a sample, and the distance of `count` samples."""
    process = PROCESSES.build("masked", vocab_size=V)
    assert isinstance(process, MaskedProcess)
    remasked, before = 0, torch.full((count, L), process.mask_id)

    def compare(state: StepState) -> None:
        nonlocal remasked, before
        remasked += int(((before != process.mask_id) & (state.x == process.mask_id)).sum())
        before = state.x

    samples = SAMPLERS.build(sampler).sample(
        exact_denoiser(source, process),
        count,
        steps=steps,
        generator=Generator().manual_seed(seed),
        on_step=compare,
    )
    return remasked / count, four_gram_distance(source, samples.x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--eta", type=float, help="in the place of the strategy's own")
    arguments = parser.parse_args()
    source = Markov(Markov.Config(vocab_size=V, length=L))
    floor = four_gram_distance(source, source.draw(arguments.samples, Generator().manual_seed(1)))
    print(f"real samples: distance {floor:.3f}\n")
    print("| strategy | " + " | ".join(f"{steps} steps" for steps in arguments.steps) + " |")
    print("|---|" + "---:|" * len(arguments.steps))
    cases: list[dict[str, Any]] = [{"type": "ancestral"}]
    eta = {} if arguments.eta is None else {"eta": arguments.eta}
    cases += [{"type": "remdm", "strategy": strategy, **eta} for strategy in get_args(Strategy)]
    for case in cases:
        rows = (measure(source, case, steps, arguments.samples, seed=0) for steps in arguments.steps)
        cells = " | ".join(f"{remasked:.1f}, {distance:.3f}" for remasked, distance in rows)
        print(f"| {case.get('strategy', case['type'])} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
