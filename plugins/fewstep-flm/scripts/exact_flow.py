"""4-gram distance of exact samplers to a Markov source, with no training: the flow in two grids, its map, masks.

python plugins/fewstep-flm/scripts/exact_flow.py [samples]     (a minute on one core)
"""

from __future__ import annotations

import sys

import torch
from fewstep_flm.exact import ExactFlowMap
from torch import Generator, Tensor

from fewstep import PROCESSES, SAMPLERS
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser

V, L, STEPS, SEEDS = 8, 16, (1, 2, 4, 8, 16, 32), (0, 1, 2)


def distance(source: Markov, x: Tensor) -> float:
    """Total variation between the 4-grams of samples and the true distribution."""
    index = (x.unfold(1, 4, 1) * V ** torch.arange(3, -1, -1)).sum(-1).flatten()
    share = torch.bincount(index, minlength=V**4).double() / len(index)
    return float((share - source.ngram_probs(4).flatten()).abs().sum() / 2)


def walk(denoiser: Denoiser, count: int, steps: int, seed: int) -> Tensor:
    return SAMPLERS.build("ancestral").sample(denoiser, count, steps=steps, generator=Generator().manual_seed(seed)).x


def in_equal_signals(denoiser: Denoiser, count: int, steps: int, seed: int) -> Tensor:
    """Samples of the flow in steps of equal length in g."""
    process = denoiser.process
    times = process.time_of_signal(torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1]).tolist()
    x = process.prior((count, L), device="cpu", generator=Generator().manual_seed(seed))
    for t, s in zip(times, [*times[1:], None], strict=True):
        now = torch.full((count,), t, dtype=torch.float64)
        prediction = denoiser(x, now)
        if s is None:
            return prediction.dense_probs().argmax(-1)
        x = process.step_back(x, prediction, now, torch.full_like(now, s), generator=None)
    raise AssertionError


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    source = Markov(Markov.Config(vocab_size=V, length=L))
    flow, masks = (
        exact_denoiser(source, PROCESSES.build(name, vocab_size=V)) for name in ("onehot_gaussian", "masked")
    )
    floors = [distance(source, source.draw(count, Generator().manual_seed(100 + seed))) for seed in SEEDS]
    print(f"samples of the source: {sum(floors) / len(floors):.3f}")
    print("| steps | " + " | ".join(map(str, STEPS)) + " |\n|---|" + "---|" * len(STEPS))
    rows = {
        "exact flow, equal steps of alpha": (flow, walk, STEPS),
        "exact flow, equal steps of g": (flow, in_equal_signals, STEPS),
        "exact masked ancestral": (masks, walk, STEPS),
        "exact flow map (32 Euler steps a jump)": (ExactFlowMap(flow, 32), walk, STEPS[:2]),
    }
    for name, (denoiser, draw, counts) in rows.items():
        cells = []
        for steps in counts:
            values = torch.tensor([distance(source, draw(denoiser, count, steps, seed)) for seed in SEEDS])
            cells.append(f"{values.mean():.3f}")
        print(f"| {name} | " + " | ".join(cells + [""] * (len(STEPS) - len(counts))) + " |", flush=True)


if __name__ == "__main__":
    main()
