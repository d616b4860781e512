"""Lazy predictions: every operation equals its dense formula, chunked or not, and stays finite."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from fewstep.predictions import base as prediction_module
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.draws import expectation, pick, sample_categorical
from fewstep.predictions.network import HeadPrediction, TablePrediction
from fewstep.predictions.shaping import outside_top_p, shape
from fewstep.testing.statistics import assert_same_distribution

B, L, V, D = 3, 5, 7, 4


@pytest.fixture(params=["whole", "chunked"], autouse=True)
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "chunked":
        monkeypatch.setattr(prediction_module, "CHUNK_ELEMENTS", 3 * V)


def make(seed: int, *, requires_grad: bool = False) -> tuple[HeadPrediction, Tensor, Tensor]:
    """A prediction over random hidden states, its dense log-probabilities and its hidden states."""
    torch.manual_seed(seed)
    hidden = torch.randn(B, L, D, requires_grad=requires_grad)
    head = torch.nn.Linear(D, V)
    torch.manual_seed(99)
    where = torch.rand(B, L) < 0.6
    known = torch.randint(V, (B, L))
    return HeadPrediction(hidden, head, V, known, where), head(hidden).log_softmax(-1), hidden


def test_operations_equal_dense_formulas() -> None:
    p, dense_p, _ = make(0)
    q, dense_q, _ = make(1)
    ids = torch.randint(V, (B, L))
    where = p.where
    zero = torch.zeros(B, L)
    expected = {
        "nll": -dense_p.gather(-1, ids[..., None])[..., 0],
        "cross_entropy": -(dense_q.exp() * dense_p).sum(-1),
        "entropy": -(dense_p.exp() * dense_p).sum(-1),
    }
    got = {"nll": p.nll(ids), "cross_entropy": p.cross_entropy(q), "entropy": p.entropy()}
    for name, value in got.items():
        torch.testing.assert_close(value, torch.where(where, expected[name], zero), msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_equal_dense_formulas() -> None:
    p, dense_p, hidden_p = make(0, requires_grad=True)
    q, dense_q, hidden_q = make(1, requires_grad=True)
    weight = torch.rand(B, L)
    dense = -(dense_q.exp() * dense_p).sum(-1) * p.where * weight
    expected = torch.autograd.grad(dense.sum(), [hidden_p, hidden_q])
    got = torch.autograd.grad((p.cross_entropy(q) * weight).sum(), [hidden_p, hidden_q])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_known_tokens_are_copied_and_rows_sampled_from_their_law() -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 2, V).log_softmax(-1).expand(20_000, 2, V)
    where = torch.tensor([[True, False]]).expand(20_000, 2)
    known = torch.full((20_000, 2), 3)
    drawn = TablePrediction(table, known, where).sample(generator=torch.Generator().manual_seed(0))
    assert (drawn[:, 1] == 3).all()
    assert_same_distribution(torch.bincount(drawn[:, 0], minlength=V), table[0, 0].exp(), "sample")


def test_dense_probs_are_one_hot_where_known() -> None:
    p, dense, _ = make(0)
    rows = p.dense_probs()
    torch.testing.assert_close(rows[p.where], dense.exp()[p.where])
    assert (rows[~p.where].argmax(-1) == p.known[~p.where]).all()
    assert torch.equal(rows[~p.where].sum(-1), torch.ones(int((~p.where).sum())))


def test_nothing_to_predict_costs_no_rows() -> None:
    p, _, _ = make(0)
    empty = HeadPrediction(torch.randn(B, L, D), torch.nn.Linear(D, V), V, p.known, torch.zeros(B, L, dtype=torch.bool))
    assert torch.equal(empty.sample(), p.known)
    assert empty.entropy().sum().item() == 0.0


def test_temperature_and_top_p() -> None:
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    base: Prediction = TablePrediction(
        log_p[None], torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    )
    cold = shape(base, temperature_=0.5).log_probs().exp()
    torch.testing.assert_close(cold, log_p.exp().square() / log_p.exp().square().sum())
    assert outside_top_p(log_p, 0.79).tolist() == [[False, False, True, True]]
    assert outside_top_p(log_p, 0.81).tolist() == [[False, False, False, True]]
    assert outside_top_p(log_p, 1e-9).tolist() == [[False, True, True, True]]
    kept = shape(base, top_p_=0.79).log_probs().exp()
    torch.testing.assert_close(kept, torch.tensor([[0.625, 0.375, 0.0, 0.0]]))
    assert shape(base) is base


def test_top_p_draws_the_renormalised_law() -> None:
    """A public sampler drew (.6, .3, .1) as (.648, .254, .098) because it took logs for probabilities."""
    law = torch.tensor([0.6, 0.3, 0.1])
    table = law.log().expand(50_000, 1, 3)
    p = TablePrediction(table, torch.zeros(50_000, 1, dtype=torch.long), torch.ones(50_000, 1, dtype=torch.bool))
    rng = torch.Generator().manual_seed(0)
    assert_same_distribution(
        torch.bincount(shape(p, top_p_=0.999).sample(generator=rng)[:, 0], minlength=3), law, "top-p .999"
    )
    drawn = shape(p, top_p_=0.9).sample(generator=rng)[:, 0]
    assert_same_distribution(torch.bincount(drawn, minlength=3), torch.tensor([2 / 3, 1 / 3, 0.0]), "top-p .9")


def test_excluded_symbols_keep_entropy_and_gradients_finite() -> None:
    hidden = torch.randn(1, 1, D, requires_grad=True)
    p = HeadPrediction(
        hidden, torch.nn.Linear(D, V), V, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    )
    cut = shape(p, top_p_=0.3)
    entropy = cut.entropy().sum()
    (grad,) = torch.autograd.grad(entropy, hidden)
    assert torch.isfinite(entropy)
    assert torch.isfinite(grad).all()
    assert torch.isfinite(cut.cross_entropy(cut)).all()


def test_rare_tokens_of_a_large_vocabulary_keep_their_share() -> None:
    """Float32 noise on a joint row [p * 1/1024 | mask] would keep 73 % of a token with p = 1e-4 (related.md, 0.1)."""
    rare = 1e-4
    log_p = torch.tensor([1 - rare, rare]).log().expand(400_000, 2)
    counts = torch.bincount(sample_categorical(log_p, torch.Generator().manual_seed(0)), minlength=2)
    assert_same_distribution(counts, torch.tensor([1 - rare, rare], dtype=torch.float64), "rare token")


def test_rowwise_passes_extras_row_by_row() -> None:
    p, dense, _ = make(0)
    marks = torch.arange(B * L).view(B, L).float()
    got = rowwise(lambda log_p, mark: mark + 0 * log_p[:, 0], [p], [marks], where=p.where)
    assert torch.equal(got, marks * p.where)
    assert dense.shape == (B, L, V)


def test_a_token_that_one_prediction_carries_over_is_certain_in_its_rows() -> None:
    """Where another prediction decides which tokens are read (a renoised state masks what this one saw clean)."""
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(3, 4, 5, generator=rng).log_softmax(-1).requires_grad_()
    known = torch.randint(5, (3, 4), generator=rng)
    where = torch.rand(3, 4, generator=rng) < 0.5
    everywhere = torch.ones_like(where)
    values = torch.randn(3, 4, 5, generator=rng)
    found = rowwise(
        lambda p, v: expectation(p, v),
        [TablePrediction(table, known, where)],
        [values],
        where=everywhere,
    )
    copied = values.gather(2, known[..., None])[..., 0]
    expected = torch.where(where, (table.exp() * values).sum(-1), copied)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert table.grad is not None
    assert table.grad[where].any(1).all()
    assert not table.grad[~where].any()


@pytest.mark.parametrize("vocab", [1025, 3000, 4096])
def test_large_vocabularies_are_searched_in_blocks_to_the_same_symbols(vocab: int) -> None:
    """Against one running sum; whole blocks and the ends of the vocabulary have no mass."""
    generator = Generator().manual_seed(vocab)
    weights = torch.rand(64, vocab, generator=generator, dtype=torch.float64) ** 8
    weights[:, ::3] = 0.0
    weights[:, :300] = 0.0
    weights[:, 600:1020] = 0.0
    weights[:32, -5:] = 0.0
    levels = torch.rand(64, generator=generator, dtype=torch.float64)
    levels[:4] = torch.tensor([0.0, 1 - 2**-53, 2**-60, 0.5], dtype=torch.float64)
    sums = weights.cumsum(-1)
    expected = torch.searchsorted(sums, (levels * sums[:, -1])[:, None], right=True)[:, 0]
    expected[1] = weights[1].nonzero().max()
    drawn = pick(weights, levels)
    assert torch.equal(drawn, expected)
    assert bool((weights.gather(1, drawn[:, None]) > 0).all())


def test_a_large_vocabulary_in_float32_keeps_its_law() -> None:
    """Zipf's law over 5,000 symbols: even steps of the level give each symbol its share, within one step."""
    law = 1 / torch.arange(1, 5001, dtype=torch.float64)
    law /= law.sum()
    levels = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    drawn = torch.cat([pick(law.float().expand(len(part), -1), part) for part in levels.split(2000)])
    counts = torch.bincount(drawn, minlength=5000)
    assert float((counts - law * 200_000).abs().max()) <= 1.1
