"""Vector quantisation, against plain second versions: nearest codes, averages, restarts, gradients, perplexity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder, nearest_code, perplexity, straight_through
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import UserError
from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.objectives.vq import Codebook
from fewstep.processes.base import PROCESSES

K, E = 7, 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(grid: tuple[int, int, int] = (8, 8, 1), **changes: object) -> Autoencoder:
    torch.manual_seed(0)
    config = {"type": "vq_autoencoder", "width": 8, "depth": 1, "codes": K, "code_width": E, **changes}
    model = BACKBONES.build(config, tokens=TokenSpace(17, 16, grid[0] * grid[1] * grid[2], grid))
    assert isinstance(model, Autoencoder)
    return model


def test_the_nearest_code_is_the_one_that_a_search_finds() -> None:
    vectors, codes = torch.randn(4, 5, 6, E, generator=rng()), 2 * torch.randn(K, E, generator=rng(1)) + 3
    found = nearest_code(vectors, codes)
    assert found.shape == (4, 5, 6)
    for vector, code in zip(vectors.flatten(0, 2).tolist(), found.flatten().tolist(), strict=True):
        distances = [math.dist(vector, other) for other in codes.tolist()]
        assert code == distances.index(min(distances))


def test_the_search_is_not_done_in_bfloat16() -> None:
    """Codes that differ in the tenth bit are told apart also under autocast."""
    codes = torch.tensor([[1.0, 0.0], [1.0 + 2**-10, 0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_code(codes.clone(), codes).tolist() == [0, 1]


def test_gradients_go_around_the_choice_of_codes_unchanged() -> None:
    vectors = torch.randn(5, E, generator=rng(), requires_grad=True)
    codes, weights = torch.randn(5, E, generator=rng(1)), torch.randn(5, E, generator=rng(2))
    passed = straight_through(vectors, codes)
    torch.testing.assert_close(passed, codes)
    (passed * weights).sum().backward()
    assert torch.equal(vectors.grad, weights)  # type: ignore[arg-type]


def test_a_reconstruction_decodes_codes_and_differentiates_through_vectors() -> None:
    backbone = small()
    network = NetworkAutoencoder(backbone, PROCESSES.build("masked", vocab_size=16))
    x = torch.randint(16, (3, 64), generator=rng())
    out = network.reconstruct(x)
    torch.testing.assert_close(out.values, x.view(3, 1, 8, 8) / 15)
    torch.testing.assert_close(out.output, backbone.decode(backbone.codebook[out.codes]))
    out.output.square().sum().backward()
    vectors = backbone.codebook.detach()[out.codes].requires_grad_()
    backbone.decode(vectors).square().sum().backward()
    found = backbone.encoder[-1].bias.grad  # type: ignore[union-attr, index]
    torch.testing.assert_close(found, vectors.grad.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
    assert backbone.codebook.grad is None
    assert network.evaluated == 3


def reference(counts: list[float], sums: list[list[float]], vectors: Tensor, chosen: Tensor, decay: float) -> Tensor:
    """Appendix A.1, in loops; changes its arguments and returns the codes."""
    for k in range(len(counts)):
        mine = [vector for vector, code in zip(vectors.tolist(), chosen.tolist(), strict=True) if code == k]
        counts[k] = decay * counts[k] + (1 - decay) * len(mine)
        for e in range(E):
            sums[k][e] = decay * sums[k][e] + (1 - decay) * sum(vector[e] for vector in mine)
    return torch.tensor([[sums[k][e] / counts[k] for e in range(E)] for k in range(len(counts))])


def test_codes_are_the_moving_averages_of_the_paper() -> None:
    counts, sums = torch.rand(K, generator=rng()) + 0.5, torch.randn(K, E, generator=rng(1))
    slow_counts, slow_sums = counts.tolist(), sums.tolist()
    codes, book = torch.zeros(K, E), Codebook(counts, sums, decay=0.8, restart=0.0)
    for seed in range(3):
        vectors = torch.randn(20, E, generator=rng(seed))
        chosen = torch.randint(K - 1, (20,), generator=rng(seed))  # nothing chooses the last code
        assert book.update(codes, vectors, chosen, rng()) == 0
        torch.testing.assert_close(codes, reference(slow_counts, slow_sums, vectors, chosen, 0.8))
    torch.testing.assert_close(book.counts, torch.tensor(slow_counts))
    torch.testing.assert_close(book.sums, torch.tensor(slow_sums))


def test_a_code_that_was_never_chosen_stays_where_it_is_without_restarts() -> None:
    codes = torch.randn(K, E, generator=rng())
    before, book = codes.clone(), Codebook(torch.zeros(K), torch.zeros(K, E), decay=0.9, restart=0.0)
    vectors = torch.randn(6, E, generator=rng(1))
    book.update(codes, vectors, torch.full((6,), 2), rng())
    torch.testing.assert_close(codes[2], vectors.mean(0))
    assert torch.equal(codes[[0, 1, 3, 4, 5, 6]], before[[0, 1, 3, 4, 5, 6]])


def test_dead_codes_begin_anew_at_vectors_of_the_batch() -> None:
    counts = torch.tensor([10.0, 10.0, 0.1, 10.0, 0.2, 10.0, 10.0])
    codes, vectors = torch.zeros(K, E), torch.randn(9, E, generator=rng())
    book = Codebook(counts.clone(), torch.ones(K, E), decay=1 - 1e-9, restart=0.1)
    assert book.update(codes, vectors, torch.zeros(9, dtype=torch.long), rng(5)) == 2
    expected = torch.randint(9, (1, K), generator=rng(5))[
        0, [2, 4]
    ]  # a number for each code, so that none moves others
    torch.testing.assert_close(codes[[2, 4]], vectors[expected])
    torch.testing.assert_close(book.counts[[2, 4]], counts.mean().expand(2))
    torch.testing.assert_close(codes[[0, 1, 3, 5, 6]], torch.full((5, E), 0.1))


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [([0, 0, 0, 0], 1.0), ([0, 1, 2, 3], 4.0), ([0, 0, 1, 1], 2.0), ([0, 0, 0, 1], math.exp(0.5623351446188083))],
)
def test_perplexity_of_known_choices(chosen: list[int], wanted: float) -> None:
    assert float(perplexity(torch.tensor(chosen), K)) == pytest.approx(wanted)


@pytest.mark.parametrize(("grid", "halvings"), [((8, 6, 1), 2), ((5, 8, 3), 1)])
def test_codes_must_tile_the_image(grid: tuple[int, int, int], halvings: int) -> None:
    with pytest.raises(UserError, match="which does not divide the image's"):
        small(grid, halvings=halvings)
