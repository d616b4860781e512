"""Rounding of noisy embeddings of a Markov source, without a training: nearest, and in context by the exact decoder."""

from __future__ import annotations

import pytest
import torch
from fewstep_codar.exact import ExactRounding
from fewstep_codar.sampler import round_in_order
from torch import Generator, Tensor

from fewstep import PROCESSES
from fewstep.data.synthetic.markov import Markov
from fewstep.predictions.shaping import likeliest
from fewstep.testing import all_sequences

V, L, COUNT = 8, 16, 4000


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, size=8))


def process(dim: int, vocab_size: int = V):
    return PROCESSES.build({"type": "embedding_gaussian", "dim": dim}, vocab_size=vocab_size)


def pair_distance(source: Markov, x: Tensor) -> float:
    """Total variation between the pairs of samples and those of the source."""
    share = torch.bincount((x[:, :-1] * V + x[:, 1:]).flatten(), minlength=V * V).double() / x[:, 1:].numel()
    return float((share - source.ngram_probs(2).flatten()).abs().sum() / 2)


def unlikely_pairs(source: Markov, x: Tensor) -> float:
    """Share of pairs whose second token is none of the likely successors of the first."""
    return float((source.transition[x[:, :-1], x[:, 1:]] < 0.01).double().mean())


STUDY = {
    (4, 0.6): ((0.140, 0.047, 0.069), (0.148, 0.013, 0.010), (0.141, 0.0001)),
    (4, 1.0): ((0.385, 0.244, 0.328), (0.352, 0.030, 0.011), (0.339, 0.0)),
    (8, 1.0): ((0.137, 0.050, 0.072), (0.149, 0.012, 0.011), (0.145, 0.0001)),
    (8, 1.5): ((0.354, 0.220, 0.308), (0.325, 0.026, 0.008), (0.319, 0.0)),
}
"""By numbers of an embedding and noise: wrong tokens and pair distance (nearest, greedy, drawn), unlikely pairs."""


@pytest.mark.parametrize("case", STUDY, ids=str)
def test_rounding_in_context_repairs_what_the_nearest_embedding_breaks(case: tuple[int, float], source: Markov) -> None:
    """The tables of embeddings are random, so that the share of wrong tokens depends on them; the order does not."""
    dim, sigma = case
    wrong, pairs, unlikely = STUDY[case]
    x0 = source.draw(COUNT, Generator().manual_seed(1))
    noisy = process(dim).embed(x0) + sigma * torch.randn(COUNT, L, dim, generator=Generator().manual_seed(2))
    levels = torch.rand(COUNT, L, dtype=torch.float64, generator=Generator().manual_seed(3))
    exact = ExactRounding(source, process(dim), sigma)
    rounded = [process(dim).nearest(noisy)]
    rounded += [round_in_order(exact, noisy, levels, shaping) for shaping in ((likeliest,), ())]
    assert exact.evaluated == 2 * L * COUNT
    errors = [float((x != x0).double().mean()) for x in rounded]
    distances = [pair_distance(source, x) for x in rounded]
    print(case, errors, distances, [unlikely_pairs(source, x) for x in rounded[:2]])
    assert errors == pytest.approx(wrong, abs=0.06)
    assert errors[1] < errors[2] < errors[0]
    assert distances[0] == pytest.approx(pairs[0], abs=0.06)
    assert distances[1] < 0.05
    assert distances[2] < 0.015
    assert unlikely_pairs(source, rounded[0]) == pytest.approx(unlikely[0], abs=0.06)
    assert unlikely_pairs(source, rounded[1]) < 0.001


@pytest.mark.parametrize("order", [1, 2])
def test_the_exact_decoder_is_that_of_the_enumeration(order: int) -> None:
    """p(x_i | x_<i, vectors) of every prefix against sums over all sequences; norms of the table agree to float32."""
    source = Markov(Markov.Config(vocab_size=3, length=4, order=order, successors=2, smoothing=0.1, size=8))
    every = all_sequences(3, 4)
    vectors = torch.randn(1, 4, 5, generator=Generator().manual_seed(0)).expand(len(every), 4, 5)
    exact, table = ExactRounding(source, process(5, 3), 0.8), process(5, 3).rows("cpu").double()
    errors = (vectors[:1].double() - table[every]).square().sum((1, 2))
    joint = (source.log_likelihood(every) - errors / (2 * 0.8**2)).exp()
    progress, last = exact.open_rounding(vectors), None
    for place in range(4):
        rows = exact.next_rows(progress, last)
        for sequence in range(len(every)):
            before = (every[:, :place] == every[sequence, :place]).all(1)
            sums = torch.stack([joint[before & (every[:, place] == token)].sum() for token in range(3)])
            assert (rows[sequence].exp() - sums / sums.sum()).abs().max() < 1e-6
        last = every[:, place]


def test_known_tokens_stand_and_later_ones_follow_them(source: Markov) -> None:
    """Vectors that say nothing: a token after a known one has its transition row."""
    prompt = torch.full((COUNT, L), -1)
    prompt[:, 5] = 3
    levels = torch.rand(COUNT, L, dtype=torch.float64, generator=Generator().manual_seed(0))
    x = round_in_order(ExactRounding(source, process(4), 1e3), torch.zeros(COUNT, L, 4), levels, (), prompt)
    assert bool((x[:, 5] == 3).all())
    share = torch.bincount(x[:, 6], minlength=V).double() / COUNT
    assert float((share - source.chain.transition[3]).abs().sum() / 2) < 0.03
