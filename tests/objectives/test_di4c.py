"""Di4C: the correlation term by enumeration, what it is for latents that change nothing, and its gradient."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from enumerable_denoisers import V, make
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.objectives.base import OBJECTIVES, Batch, Phase
from fewstep.objectives.di4c import Di4C, correlations
from fewstep.recipe import load_recipe

M, B, L = 3, 2, 3
TRAIN = Phase("train", ("student",))


def mixture(where: Tensor) -> Tensor:
    rng = Generator().manual_seed(0)
    return torch.randn(M, int(where.sum()), V, generator=rng, dtype=torch.float64).log_softmax(-1)


def dense(rows: Tensor, where: Tensor) -> Tensor:
    """[M, B, L, V], 1 at positions that are not predicted, whatever the symbol."""
    full = torch.ones(M, *where.shape, V, dtype=torch.float64)
    full[:, where] = rows.exp()
    return full


def of_symbols(rows: Tensor, where: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the symbols of sequences [J, B, L]: [B, L, M, J]."""
    symbols = ids.expand(M, *ids.shape)  # [M, J, B, L]
    return dense(rows, where).log().permute(1, 2, 0, 3).gather(3, symbols.permute(2, 3, 0, 1))


def test_correlations_are_those_of_the_enumerated_mixture() -> None:
    where = torch.tensor([[True, True, False], [True, True, True]])
    rows = mixture(where)
    p = dense(rows, where)
    every = torch.tensor(list(itertools.product(range(V), repeat=L)))
    got = correlations(of_symbols(rows, where, every[:, None].expand(-1, B, -1)))
    for j, x in enumerate(every.tolist()):
        for b in range(B):
            of_latent = torch.stack([torch.stack([p[m, b, i, x[i]] for i in range(L)]).prod() for m in range(M)])
            alone = torch.stack([p[:, b, i, x[i]].mean() for i in range(L)]).prod()
            assert float(got[j, b]) == pytest.approx(float((of_latent.mean() / alone).log()), abs=1e-12)
    joint = torch.stack([p[:, 1, i][:, every[:, i]] for i in range(L)]).prod(0).mean(0)
    assert float(joint.sum()) == pytest.approx(1), "a mixture of products is a law"


def test_a_latent_that_changes_nothing_has_no_correlations() -> None:
    where = torch.ones(B, L, dtype=torch.bool)
    rows = mixture(where)[:1].expand(M, -1, -1)
    ids = torch.randint(V, (5, B, L), generator=Generator().manual_seed(1))
    torch.testing.assert_close(correlations(of_symbols(rows, where, ids)), torch.zeros(5, B, dtype=torch.float64))


def test_a_student_without_a_latent_rests_at_the_teacher_near_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of this test read no noise: equal tables have no loss and no gradient at any t."""
    ctx, roles = make("masked")
    roles["student"].logits.data.copy_(roles["teacher"].logits.data)
    objective = OBJECTIVES.build({"type": "di4c", "latents": 2, "delta": 0.4, "near_share": 1.0})
    out = objective.loss(TRAIN, Batch(torch.zeros(64, 2, dtype=torch.long)), ctx)
    assert float(out.loss.detach()) == pytest.approx(0, abs=1e-12)
    (gradient,) = torch.autograd.grad(out.loss, roles["student"].logits)
    assert float(gradient.abs().max()) < 1e-12


def test_without_a_latent_marginals_learn_teacher_and_later_steps_alone() -> None:
    """No correlations, so data leave no trace: their weight changes nothing."""
    losses = []
    for weight in (0.0, 5.0):
        ctx, _ = make("masked")
        objective = OBJECTIVES.build({"type": "di4c", "latents": 2, "near_share": 0.0, "data_weight": weight})
        assert isinstance(objective, Di4C)
        losses.append(objective.loss(TRAIN, Batch(torch.zeros(64, 2, dtype=torch.long)), ctx))
    torch.testing.assert_close(losses[0].loss, losses[1].loss)
    assert float(losses[0].metrics["correlation"]) == pytest.approx(0, abs=1e-9)
    assert float(losses[0].metrics["divergence"]) > 0


def test_it_needs_a_latent(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="the mixture's latent is the noise input"):
        load_recipe("coins-di4c", ["noise_input=null"], teacher=str(tmp_path))
