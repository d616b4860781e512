"""Gradient Moment of a known generator under a known reference: the curve over top-p, and what misleads it.

Data are a Markov chain. A reference with one logit for each pair of neighbours has, for a generator of stationary law
pi_g and transitions G, the mean gradient pi_g(a) (G(a, b) - R(a, b)) at logit (a, b), so the moment is known exactly.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Generator, Tensor, nn

from fewstep.data.synthetic.markov import Markov
from fewstep.likelihood.references import Encoded, Reference
from fewstep.metrics.text.gradient_moment import gradient_moments

V, L, BATCHES, SIZE = 8, 16, 40, 250
NOISE = 0.2
LEVELS = (1.0, 0.95, 0.9, 0.85, 0.7, 0.5)


class Pairs(Reference):
    """log R(b | a) of tokens after the first, R the softmax of a table of logits."""

    scores_first = False

    def __init__(self, transition: Tensor) -> None:
        self.network = nn.Module()
        self.network.logits = nn.Parameter(transition.log().double())

    def encode(self, samples: Tensor) -> Encoded:
        counted = torch.ones_like(samples, dtype=torch.bool)
        counted[:, 0] = False
        return Encoded(samples, counted)

    def nll(self, encoded: Encoded) -> Tensor:
        logits = self.network.get_parameter("logits")
        scores = -logits.log_softmax(1)[encoded.ids[:, :-1], encoded.ids[:, 1:]]
        return nn.functional.pad(scores, (1, 0))


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=4, smoothing=0.01, size=8))


def stationary(transition: Tensor) -> Tensor:
    """pi with pi = pi T, by least squares."""
    equations = torch.cat((transition.T - torch.eye(V), torch.ones(1, V)))
    return torch.linalg.lstsq(equations.double(), torch.eye(V + 1)[V].double()).solution


def top_p(transition: Tensor, level: float) -> Tensor:
    """Each row reduced to the fewest symbols that have this mass together."""
    mass, order = transition.sort(1, descending=True)
    kept = torch.where(mass.cumsum(1) - mass < level, mass, 0.0)
    rows = torch.zeros_like(transition).scatter(1, order, kept)
    return rows / rows.sum(1, keepdim=True)


def noisy(source: Markov) -> Tensor:
    """Transitions of a generator that gives some mass to whatever symbol."""
    return (1 - NOISE) * source.transition + NOISE / V


def draw(transition: Tensor, count: int, generator: Generator) -> Tensor:
    x = torch.multinomial(stationary(transition).clamp(min=0), count, replacement=True, generator=generator)[:, None]
    for _ in range(1, L):
        x = torch.cat((x, torch.multinomial(transition[x[:, -1]], 1, generator=generator)), 1)
    return x


def moment(transition: Tensor, reference: Tensor, source: Markov) -> float:
    ours, theirs = (stationary(law)[:, None] * (law - reference).double() for law in (transition, source.transition))
    return float((ours - theirs).square().sum())


def perplexity(transition: Tensor, reference: Tensor) -> float:
    return float((-(stationary(transition)[:, None] * transition * reference.log()).sum()).exp())


def test_over_top_p_the_moment_has_its_lowest_point_inside_while_perplexity_keeps_falling(source: Markov) -> None:
    """arXiv 2603.20155, section 5: what is cut first is noise, then variety."""
    laws = [top_p(noisy(source), level) for level in LEVELS]
    moments = [moment(law, source.transition, source) for law in laws]
    best = moments.index(min(moments))
    assert LEVELS[best] == 0.85
    assert moments[0] > 10 * moments[best]
    assert moments[-1] > 100 * moments[best]
    assert all(a > b for a, b in itertools.pairwise(moments[: best + 1]))
    assert all(a < b for a, b in itertools.pairwise(moments[best:]))
    values = [perplexity(law, source.transition) for law in laws]
    assert all(a > b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("level", LEVELS)
def test_estimates_agree_with_the_exact_moment(level: float, source: Markov) -> None:
    law, generator = top_p(noisy(source), level), Generator().manual_seed(int(100 * level))
    pairs = ((draw(law, SIZE, generator), draw(source.transition, SIZE, generator)) for _ in range(BATCHES))
    found = gradient_moments(Pairs(source.transition), pairs)
    exact = moment(law, source.transition, source)
    assert abs(found.values()[0] - exact) < 3.5 * found.standard_error()
    assert found.standard_error() < 0.2 * max(exact, 3e-4), "close enough to tell the levels apart"


def test_a_generator_that_is_the_reference_gains_by_sharpening(source: Markov) -> None:
    """It knows the data as badly as before, and scores four times as well: why scoring warns of such a pair."""
    reference = noisy(source)
    honest, sharp = (moment((reference.log() / heat).softmax(1), reference, source) for heat in (1.0, 0.8))
    assert sharp < honest / 3
