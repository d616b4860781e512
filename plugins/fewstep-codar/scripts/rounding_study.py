"""Token recovery: clean embeddings of a Markov source plus N(0, sigma^2), rounded in several ways.

    python plugins/fewstep-codar/scripts/rounding_study.py                  # exact decoder, random tables
    python plugins/fewstep-codar/scripts/rounding_study.py RUN --sigma 1    # a trained decoder beside it

Prints wrong tokens, total variation of pairs, and the share of pairs that the source hardly has, for the nearest
embedding and for decoding in context (greedy, drawn).
"""

from __future__ import annotations

import argparse

import torch
from fewstep_codar.embedding_gaussian import EmbeddingGaussian, embedding_process
from fewstep_codar.exact import ExactRounding
from fewstep_codar.network import Rounder
from fewstep_codar.sampler import round_in_order
from torch import Generator, Tensor

from fewstep.data.synthetic.markov import Markov
from fewstep.predictions.shaping import likeliest
from fewstep.processes.base import PROCESSES
from fewstep.runs.models import open_model

COUNT = 4000
CASES = ((4, 0.6), (4, 1.0), (8, 1.0), (8, 1.5))


def figures(source: Markov, x: Tensor, x0: Tensor) -> tuple[float, float, float]:
    """Wrong tokens, total variation of pairs, and unlikely pairs of rounded samples [N, L]."""
    size = source.spec.vocab_size
    share = torch.bincount((x[:, :-1] * size + x[:, 1:]).flatten(), minlength=size**2).double() / x[:, 1:].numel()
    distance = (share - source.ngram_probs(2).flatten()).abs().sum() / 2
    unlikely = (source.transition[x[:, :-1], x[:, 1:]] < 0.01).double().mean()
    return float((x != x0).double().mean()), float(distance), float(unlikely)


def study(source: Markov, process: EmbeddingGaussian, sigma: float, trained: Rounder | None) -> Tensor:
    """Figures of each way: nearest, exact greedy, exact drawn, and greedy and drawn of a trained decoder; [ways, 3]."""
    x0 = source.draw(COUNT, Generator().manual_seed(1))
    clean = process.embed(x0)
    vectors = clean + sigma * torch.randn(clean.shape, generator=Generator().manual_seed(2))
    levels = torch.rand(x0.shape, dtype=torch.float64, generator=Generator().manual_seed(3))
    ways = [process.nearest(vectors)]
    for rounder in filter(None, (ExactRounding(source, process, sigma), trained)):
        ways += [round_in_order(rounder, vectors, levels, shaping) for shaping in ((likeliest,), ())]
    return torch.tensor([figures(source, x, x0) for x in ways])


def show(label: str, table: Tensor) -> None:
    for name, column in zip(("wrong tokens", "pair distance", "unlikely pairs"), table.T, strict=True):
        print(f"{label}  {name:14}  {'  '.join(f'{value:.4f}' for value in column.tolist())}", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="run of objective rounding_decoder on the Markov source")
    parser.add_argument("--sigma", type=float, nargs="+", default=[1.0])
    parser.add_argument("--tables", type=int, default=8, help="random tables that the exact figures are averaged over")
    options = parser.parse_args()
    print("columns: nearest, exact greedy, exact drawn, trained greedy, trained drawn")
    if options.run is not None:
        model = open_model(options.run, device="cpu", trust_plugins=True)
        assert isinstance(model.network, Rounder)
        assert isinstance(model.dataset, Markov)
        for sigma in options.sigma:
            show(f"sigma {sigma}", study(model.dataset, embedding_process(model.network.process), sigma, model.network))
        return
    source = Markov(Markov.Config(vocab_size=8, length=16, size=8))
    for dim, sigma in CASES:
        tables = []
        for seed in range(options.tables):
            config = {"type": "embedding_gaussian", "dim": dim, "table_seed": seed}
            tables.append(study(source, embedding_process(PROCESSES.build(config, vocab_size=8)), sigma, None))
        show(f"D {dim}, sigma {sigma}", torch.stack(tables).mean(0))
        show("  standard deviation over tables", torch.stack(tables).std(0))


if __name__ == "__main__":
    main()
